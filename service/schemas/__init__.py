"""What crosses the boundary: Pydantic models of requests and answers. Nothing inside uses them."""
