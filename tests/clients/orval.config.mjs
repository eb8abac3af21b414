const input = "./openapi.json";
const baseUrl = { runtime: "process.env.ITEMS_URL" };

export default {
  calls: { input, output: { target: "./made/orval.ts", client: "fetch", baseUrl } },
  schemas: { input, output: { target: "./made/orval.zod.ts", client: "zod" } },
};
