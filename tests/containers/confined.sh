# Nothing runs as root, ports are on loopback alone, and everything is healthy when provisioned.
for service in $(docker compose ps --services); do
    docker compose exec -T "$service" sh -c '[ "$(id -u)" = 10001 ] && ! touch /opt/written 2>/dev/null'
    for try in $(seq 60); do
        if docker compose ps --format '{{.Health}}' "$service" | grep -qx healthy; then break; fi
        if [ "$try" = 60 ]; then echo "$service is not healthy"; exit 1; fi
        sleep 1
    done
done
docker compose ps --format '{{.Ports}}' | grep -o '[^ ]*->' | grep -v '^127\.0\.0\.1:' && exit 1
docker compose ps --format 'table {{.Service}}\t{{.Status}}'
