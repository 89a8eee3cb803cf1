#!/usr/bin/env bash
# Build and run the relay's image. `./docker-build.sh help` lists the commands.
set -euo pipefail
cd "$(dirname "$0")"

# RELAY_*, TWILIO_*, ORCH_* and CAPABILITY_* lines of .env count unless the environment says otherwise, as for docker-compose.
if [ -f .env ]; then
  while IFS= read -r line || [ -n "$line" ]; do
    if [[ ${line%$'\r'} =~ ^((RELAY|TWILIO|ORCH|CAPABILITY)_[A-Z0-9_]+)=(.*)$ ]]; then
      key=${BASH_REMATCH[1]} value=${BASH_REMATCH[3]}
      if [[ $value =~ ^\"(.*)\"$ || $value =~ ^\'(.*)\'$ ]]; then value=${BASH_REMATCH[1]}; fi
      if [ -z "${!key+set}" ]; then export "$key=$value"; fi
    fi
  done <.env
fi

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

RELAY_IMAGE, RELAY_CONTAINER and RELAY_PORT change the names above. Every RELAY_*, TWILIO_*,
ORCH_* and CAPABILITY_* variable that is set, in the environment or in .env, goes into the
container.
TEXT
}

need() {
  command -v "$1" >/dev/null || { echo "docker-build.sh: $1 is not installed" >&2; exit 1; }
}

compose() {
  if docker compose version >/dev/null 2>&1; then docker compose "$@"; else need docker-compose; docker-compose "$@"; fi
}

run() {
  # Within a container localhost is the container, and only 0.0.0.0 can be published.
  export RELAY_COMFYSTREAM_URL=${RELAY_COMFYSTREAM_URL:-http://host.docker.internal:8889}
  export RELAY_HOST=0.0.0.0 RELAY_PORT=$port
  local settings=() key
  while IFS= read -r key; do
    case "$key" in
      RELAY_IMAGE | RELAY_CONTAINER) ;;
      # By name: a value on the command line would show in the list of processes.
      RELAY_* | TWILIO_* | ORCH_* | CAPABILITY_*) settings+=(--env "$key") ;;
    esac
  done < <(compgen -e)
  docker run --detach --name "$name" --init --read-only --tmpfs /tmp --restart unless-stopped \
    --cap-drop ALL --security-opt no-new-privileges:true --stop-timeout 10 \
    --publish "$port:$port" --add-host host.docker.internal:host-gateway \
    "${settings[@]}" "$image"
}

case "${1:-help}" in
  build)
    need docker
    docker build --tag "$image" --build-arg "COMMIT=$(git rev-parse HEAD 2>/dev/null || true)" .
    ;;
  run)
    need docker
    run
    ;;
  stop)
    need docker
    docker stop "$name" >/dev/null
    docker rm "$name" >/dev/null
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
    compose up --detach
    ;;
  compose-down)
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
