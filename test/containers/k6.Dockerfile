# Stands in for grafana/k6 where no registry can be reached: the k6 of this machine, which is the build's context.
FROM debian:trixie-slim
COPY k6 /usr/bin/k6
USER nobody
ENTRYPOINT ["k6"]
