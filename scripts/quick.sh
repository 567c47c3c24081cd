#!/usr/bin/env bash
# What to run at every save: the tests of the root module that need no server, without the race detector. Postgres is not
# looked for, and what is slow by nature is left out (-short). Arguments go to go test.
set -euo pipefail
cd "$(dirname "$0")/.."
export TENEMENT_TEST_POSTGRES_BIN=/nonexistent TENEMENT_TEST_POSTGRES= TENEMENT_REQUIRE_POSTGRES=
# The tests of backend/postgres are about the server.
go list ./... | grep -v '/backend/postgres$' | xargs go test -short "$@"
