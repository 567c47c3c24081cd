# make test    everything, with the race detector, on SQLite and Postgres; installs what is missing on Debian
# make quick   what to run at every save: the tests that need no server, in less than a minute
# make lint    gofumpt, go vet for three systems, golangci-lint, what changed in the API since the last tag
# make bench   every benchmark, then the figures beside their references (BENCHTIME=1x: a short run of all of it)
# make scale   the figures of thousands of tenants, for most of an hour
# make growth  the same work with 10, 100, 1,000 and 10,000 tenants, with charts
# make matrix  the suites that use Postgres, on every version that can be had (POSTGRES="15 18": on these)
# make storm   everything that can fail does, over SQLite, Postgres and PgBouncer, for 5 million operations (SEED=n: that one again)
# make storm-short   the same for a minute; make storm-broken: it reports what builds without an invariant do wrong
# make crash   hundreds of processes are killed in the middle of something, and others go on
# make soak    10,000 tenants are served for 5 minutes, and what that takes is drawn; then 100,000 of which few are active
# make fuzz    every fuzz target in turn (FUZZTIME=10s each)
# make deps    only install what the tests need

BENCHTIME ?= 1s
FUZZTIME  ?= 10s

GOFUMPT       := mvdan.cc/gofumpt@v0.12.0
GOLANGCI      := github.com/golangci/golangci-lint/v2/cmd/golangci-lint
GOLANGCI_AT   := v2.15.0
GOLANGCI_LINT := bin/golangci-lint-$(GOLANGCI_AT)

# Where Postgres is missing, tests are to fail instead of being skipped.
export TENEMENT_REQUIRE_POSTGRES := 1

.PHONY: test
test: deps bin/pgrun
	bin/pgrun icu_locale=en-US fsync=off full_page_writes=off scripts/test.sh

.PHONY: quick
quick:
	scripts/quick.sh

.PHONY: lint
lint: $(GOLANGCI_LINT)
	@echo 'gofumpt'
	@unformatted="$$(go run $(GOFUMPT) -l .)" && if [ -n "$$unformatted" ]; then \
		echo "not formatted (go run $(GOFUMPT) -w FILE):"; echo "$$unformatted"; exit 1; fi
	GOOS=linux   scripts/each-module.sh go vet ./...
	GOOS=darwin  scripts/each-module.sh go vet ./...
	GOOS=windows scripts/each-module.sh go vet ./...
	scripts/each-module.sh '$(CURDIR)/$(GOLANGCI_LINT)' run ./...
	scripts/api.sh

.PHONY: bench
bench: deps bin/pgrun
	bin/pgrun scripts/each-module.sh go test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) -p 1 -timeout 30m ./...
	cd bench && go run . $(if $(filter 1x,$(BENCHTIME)),-quick && go run . -scale growth -quick,-o RESULTS.md)

.PHONY: scale
scale: deps
	cd bench && go run . -scale 10k -o RESULTS-10k.md

.PHONY: growth
growth: deps
	cd bench && go run . -scale growth -rounds 5 -o RESULTS-growth.md

.PHONY: matrix
matrix: deps
	scripts/matrix.sh $(POSTGRES)

SEED ?= 0

.PHONY: storm
storm: deps
	mkdir -p storm/results && cd storm && go run . -seed $(SEED) -for 60s -ops 5200000 -tenants 200 -actors 150 -o results/storm.md

.PHONY: storm-short
storm-short: deps
	cd storm && go run . -seed $(SEED) -for 10s -late 30s

.PHONY: storm-broken
storm-broken: deps
	scripts/storm-broken.sh

.PHONY: crash
crash: deps
	go test -count 3 -run 'Killed' ./tenancy ./migrate
	mkdir -p storm/results && cd storm && go run . crash -seed $(SEED) -kills 250 -o results/crash.md

.PHONY: soak
soak: deps
	mkdir -p storm/results && cd storm && go run . soak -seed $(SEED) -o results/soak.md

.PHONY: fuzz
fuzz:
	scripts/fuzz.sh $(FUZZTIME)

.PHONY: deps
deps:
	scripts/deps.sh

.PHONY: bin/pgrun
bin/pgrun:
	go build -o bin/pgrun ./internal/pgtest/pgrun

# Built once for each version; building it takes minutes.
$(GOLANGCI_LINT):
	mkdir -p bin/install
	GOBIN='$(CURDIR)/bin/install' go install $(GOLANGCI)@$(GOLANGCI_AT)
	mv bin/install/golangci-lint $@
