SHELL := /bin/bash
.DEFAULT_GOAL := help

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

.PHONY: help
help: ## This list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## bin/tablexport
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/tablexport ./cmd/tablexport

.PHONY: demo
demo: ## The main job on a simulated ERP, into ./tablexport-demo: no network, no account
	go run ./cmd/tablexport demo

.PHONY: test
test: ## The tests; what has no server here is skipped, and the last lines say what and why
	@.ci/tools.sh versitygw || echo "no S3 server: the tests that need one are skipped"
	@.ci/tools.sh readers || echo "no readers: the tests that need them are skipped"
	@.ci/tools.sh --status vaultserver
	go run .ci/gotest/main.go ./... ./.ci/bench

.PHONY: check
check: ## Everything CI runs: formatting, vet, lint, modules, race, every server and reader, fuzzing
	@.ci/check.sh

.PHONY: spark
spark: ## Spark, Delta's own library and parquet-mr read what is written (Java 17; 280 MB from Maven Central, once)
	@.ci/tools.sh spark
	TABLEXPORT_SPARK=1 go test -count=1 -run '^TestSparkReads$$' ./export

.PHONY: fuzz
fuzz: ## Every fuzz target for FUZZTIME (5s) each
	@.ci/fuzz.sh

.PHONY: bench
bench: ## Benchmarks of the stations, and of whole runs up to ten million rows
	@.ci/bench.sh

.PHONY: bench-compare
bench-compare: ## The same copy by DuckDB and by a naive program, in proportion
	@.ci/tools.sh peer
	@.ci/bench.sh --compare

.PHONY: lint
lint: ## golangci-lint, the layering included
	@.ci/tools.sh golangci-lint
	"$$(.ci/tools.sh --dir)/bin/golangci-lint" run ./... ./.ci/bench ./.ci/gotest

.PHONY: fmt
fmt: ## gofmt on every Go file
	find . -name '*.go' -not -path './.git/*' -print0 | xargs -0 gofmt -l -w

.PHONY: servers
servers: ## The S3 server, the Vault server and the readers for the tests, in a cache outside the tree (minutes, once)
	@.ci/tools.sh versitygw vaultserver readers

.PHONY: servers-all
servers-all: servers ## The same and MinIO; TABLEXPORT_S3_SERVER=minio makes the tests use it
	@.ci/tools.sh minio

.PHONY: clean
clean: ## What make and go build left in the tree; not the cache
	rm -rf bin dist coverage coverage.out tablexport tablexport-demo
