# HAProxy for docker/compose.proxy.yml, which mounts docker/haproxy.cfg.
FROM debian:trixie-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends haproxy \
    && rm -rf /var/lib/apt/lists/*
USER haproxy
EXPOSE 8080
# SIGUSR1 ends requests in flight before it stops; SIGTERM would abort them.
STOPSIGNAL SIGUSR1
# -W: a master process, which reloads the configuration and the certificate on SIGHUP. HAProxy
# separates the values of a variable by spaces, our settings by commas.
CMD ["sh", "-c", "TRUSTED_PROXIES=$(echo \"$TRUSTED_PROXIES\" | tr , ' ') exec haproxy -W -f /etc/haproxy/haproxy.cfg"]
