# Before anything is provisioned every container runs, and what lacks credentials says so and goes on trying.
sentence='failed to load TOML configuration: stat config.toml: no such file or directory'
for service in manager coordinator-http proxy proplet proplet-2 proplet-3; do
    for try in $(seq 60); do
        if [ "$(docker compose logs "$service" | grep -c "$sentence")" -ge 2 ]; then break; fi
        if [ "$try" = 60 ]; then echo "$service has not said twice: $sentence"; exit 1; fi
        sleep 0.5
    done
done
for container in $(docker compose ps --all --quiet); do
    docker inspect --format '{{.Name}} {{.State.Status}} restarted={{.RestartCount}}' "$container"
done | tee .states
[ "$(grep -c ' running restarted=0$' .states)" = 12 ]
for service in identity mqtt-adapter local-registry model-registry aggregator local-data-store; do
    for try in $(seq 60); do
        if docker compose ps --format '{{.Health}}' "$service" | grep -qx healthy; then break; fi
        if [ "$try" = 60 ]; then echo "$service is not healthy"; exit 1; fi
        sleep 1
    done
done
