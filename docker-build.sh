#!/usr/bin/env bash
# Build and run the relay's image. `./docker-build.sh help` lists the commands.
set -euo pipefail
cd "$(dirname "$0")"

image=${RELAY_IMAGE:-trickle-relay:latest}
name=${RELAY_CONTAINER:-trickle-relay}
port=${RELAY_PORT:-8890}

usage() {
  cat <<TEXT
usage: ./docker-build.sh COMMAND

  build          build the image ($image)
  run            start the relay as the container '$name' on port $port
  stop           stop and remove that container
  logs           follow its log
  shell          a shell in it
  health         ask its /health; exit code 0 when healthy
  clean          remove the container and the image
  compose-up     docker-compose up -d
  compose-down   docker-compose down

RELAY_IMAGE, RELAY_CONTAINER and RELAY_PORT change the names above. Every RELAY_* variable that
is set, and .env if there is one, goes into the container.
TEXT
}

need() {
  command -v "$1" >/dev/null || { echo "docker-build.sh: $1 is not installed" >&2; exit 1; }
}

compose() {
  if docker compose version >/dev/null 2>&1; then docker compose "$@"; else need docker-compose; docker-compose "$@"; fi
}

settings() {
  [ -f .env ] && printf '%s\n' --env-file .env
  while IFS='=' read -r key _; do
    case "$key" in
      RELAY_IMAGE | RELAY_CONTAINER) ;;
      RELAY_*) printf '%s\n' --env "$key" ;;
    esac
  done < <(env)
  return 0
}

case "${1:-help}" in
  build)
    need docker
    docker build --tag "$image" .
    ;;
  run)
    need docker
    mapfile -t env_arguments < <(settings)
    docker run --detach --name "$name" --init --read-only --tmpfs /tmp --restart unless-stopped \
      --stop-timeout 10 --publish "$port:$port" --add-host host.docker.internal:host-gateway \
      --env RELAY_PORT="$port" "${env_arguments[@]}" "$image"
    ;;
  stop)
    need docker
    docker rm --force "$(docker stop "$name")"
    ;;
  logs)
    need docker
    docker logs --follow "$name"
    ;;
  shell)
    need docker
    docker exec --interactive --tty "$name" /bin/bash
    ;;
  health)
    need curl
    curl --fail --silent --show-error "http://localhost:$port/health"
    echo
    ;;
  clean)
    need docker
    docker rm --force "$name" >/dev/null 2>&1 || true
    docker image rm "$image"
    ;;
  compose-up)
    need docker
    compose up --detach
    ;;
  compose-down)
    need docker
    compose down
    ;;
  help | -h | --help)
    usage
    ;;
  *)
    echo "docker-build.sh: unknown command '$1'" >&2
    usage >&2
    exit 2
    ;;
esac
