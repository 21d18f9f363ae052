# Everything here runs as it stands on a fresh Linux machine with Go and make. Root is needed for what mounts.

GO      ?= go
TAGS    := grpcnotrace
RACE    ?= -race
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
BIN     := bin/agent

.PHONY: all build quickstart test unit lint compiler conformance moto sizes sdk daprd-test image manifests chart-test e2e-build e2e postgres vault-test fuzz bench clean

all: build

build: ## the agent, one static binary
	CGO_ENABLED=0 $(GO) build -trimpath -tags $(TAGS) -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/agent

quickstart: build ## the main job on this machine: a store, a mounted volume, the API, a rotation
	./examples/quickstart/run.sh $(BIN)

test: lint unit conformance sdk chart-test ## every test

unit: compiler ## the product's own tests, race detector on; what needs root skips without it and says so
	@[ "$$(id -u)" = 0 ] || echo 'Not root: the tests that mount skip. As root they run: sudo make unit.'
	$(GO) test $(RACE) -tags $(TAGS) ./...

lint: ## formatting, vet, staticcheck
	@test -z "$$(gofmt -l build charts cmd internal pkg test | tee /dev/stderr)" || { echo 'run gofmt -w on these files'; exit 1; }
	$(GO) vet -tags $(TAGS) ./...
	$(GO) tool -modfile=tools/go.mod staticcheck -tags $(TAGS) ./...

conformance: compiler ## the CSI project's sanity suite against the agent's CSI services
	cd test/conformance && $(GO) test $(RACE) -tags $(TAGS) ./...

sdk: compiler build test/sdk/js/node_modules ## the unmodified Dapr SDKs against the agent
	cd test/sdk && KEYWELL_AGENT=$(abspath $(BIN)) $(GO) test $(RACE) -tags $(TAGS) ./...

sizes: ## record what the agent weighs, which a test compares
	$(GO) test -tags $(TAGS) -count 1 ./test/size -update

# moto is an emulator of AWS that others wrote, in Python. Without Python the tests skip and say so.
MOTO := .cache/moto/bin/moto_server

moto: compiler $(if $(shell command -v python3),$(MOTO)) ## the AWS drivers against moto
	KEYWELL_MOTO=$(if $(shell command -v python3),$(abspath $(MOTO))) $(GO) test $(RACE) -tags $(TAGS) -count 1 -v -run '^TestMoto' ./pkg/providers/aws

$(MOTO):
	python3 -m venv .cache/moto
	.cache/moto/bin/pip install -q 'moto[server,secretsmanager,ssm]==5.1.22'

compiler: # said here, because Go says it once for each package
	@[ -z '$(RACE)' ] || command -v "$$($(GO) env CC)" >/dev/null || \
		{ echo 'The race detector needs a C compiler: install gcc, or leave the detector out with make RACE= ….'; exit 1; }

# Without npm the JS SDK's test skips and says so.
test/sdk/js/node_modules: test/sdk/js/package-lock.json
	@if command -v npm >/dev/null; then cd test/sdk/js && npm ci --no-audit --no-fund --ignore-scripts && touch node_modules; fi

# Dapr's runtime, named after what it is built from, because that takes five minutes.
DAPRD := .cache/daprd/daprd-$(shell sha256sum <test/sdk/daprd/go.sum | cut -c1-12)

$(DAPRD):
	@mkdir -p $(@D)
	cd test/sdk/daprd && $(GO) build -trimpath -tags stablecomponents -ldflags '-s -w' -o $(abspath $@) github.com/dapr/dapr/cmd/daprd

daprd-test: compiler build $(DAPRD) ## a stock daprd that has the agent as its secret store
	cd test/sdk && KEYWELL_AGENT=$(abspath $(BIN)) KEYWELL_DAPRD=$(abspath $(DAPRD)) $(GO) test $(RACE) -tags $(TAGS) -count 1 -run Daprd ./...

IMAGE   ?= ghcr.io/keywell/keywell:$(VERSION:v%=%)
ARCHIVE ?= bin/keywell.tar

image: build ## the agent's image, an OCI archive, without Docker
	cd build && $(GO) run ./image -agent $(abspath $(BIN)) -name $(IMAGE) -version $(VERSION) -o $(abspath $(ARCHIVE))

manifests: ## deploy/daemonset, from the chart
	cd charts/test && $(GO) test -run '^TestDeploy$$' -count 1 . -args -update

chart-test: ## the chart, as Helm renders it, deploy/daemonset, and the image
	cd charts/test && $(GO) test ./...
	cd build && $(GO) test ./...

# Named after what it is built from, because it takes ten minutes. Nothing of Vault's server reaches the product's go.mod.
VAULT := .cache/vault/server-$(shell cat test/vault/go.sum test/vault/server/*.go | sha256sum | cut -c1-12)

$(VAULT):
	@mkdir -p $(@D)
	cd test/vault && $(GO) build -ldflags '-s -w' -o $(abspath $@) ./server

e2e-build: ## etcd, Kubernetes, containerd, runc and helm for the test cluster, from their Go modules; nothing where they are built
	cd test/e2e && $(GO) run ./cluster/cmd/cluster build

e2e: e2e-build $(VAULT) ## a real API server, kubelet and container runtime on this machine
	cd test/e2e && KEYWELL_VAULT=$(abspath $(VAULT)) $(GO) test $(RACE) -count 1 -p 1 -timeout 20m -v ./...

# Debian's, where there is none: what needs a database skips without it and says so.
postgres:
	@command -v postgres >/dev/null || ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql >/dev/null; }

vault-test: compiler postgres $(VAULT) ## the Vault driver against a real Vault server
	KEYWELL_VAULT=$(abspath $(VAULT)) $(GO) test $(RACE) -tags $(TAGS) -count 1 ./pkg/providers/vault/...

fuzz: ## every fuzz target, FUZZTIME each: a number of inputs, or a time
	./test/fuzz.sh $(or $(FUZZTIME),20000x)

bench: build ## beside their floors, in the same run
	KEYWELL_AGENT=$(abspath $(BIN)) $(GO) test -tags $(TAGS) -run '^TestReport$$' -count 1 -v ./test/bench

clean:
	rm -rf bin .cache
