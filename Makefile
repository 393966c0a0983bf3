VERSION := $(shell git describe --tags --always --dirty 2>/dev/null)
COMMIT  := $(shell git rev-parse HEAD 2>/dev/null)
DATE    := $(shell git log -1 --format=%cI 2>/dev/null)
GOLANGCI := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.PHONY: build test cross lint bench bench-gates bench-edge bench-backends demo

build: ## the binary, in bin/
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT) -X main.date=$(DATE)" -o bin/fairlead ./cmd/fairlead

test: ## every test: the rooms, the house rules, and the suites under test/ with real systems
	go test . ./cmd/... ./internal/...
	cd examples/gin && go test ./...
	go test -p 1 -timeout 30m ./test/...

cross: ## build and vet for every operating system and architecture; part of CI's `make test`
	CROSS=1 go test -run TestCrossBuilds .

lint:
	go vet ./...
	$(GOLANGCI) run ./...
	go mod tidy -diff

bench: ## speed and memory beside peers, as ratios
	go test ./test/bench ./test/metrics -run '^$$' -bench . -benchtime 1x -timeout 30m -p 1

bench-gates: ## the table of docs/gates-table.md, by simulation from seeds: 10,000 rollouts a cell; ROLLOUTS=500 for a quick look
	TABLE=$(CURDIR)/docs/gates-table.md go test ./test/benchgates -run '^$$' -bench . -benchtime 1x -timeout 2h

bench-edge: ## the table of docs/edge-table.md: the edge beside other proxies; ONLY=keepalive-1k-plain,idle,swap PEERS=nginx DURATION=1s for a part of it,
            ## PEER='name:command with {listen} and {backend}' and PEER_TLS (also {cert} and {key}) for one more proxy
	TABLE=$(CURDIR)/docs/edge-table.md go test ./test/benchedge -run '^$$' -bench . -benchtime 1x -timeout 2h

bench-backends: ## the table of docs/backends-table.md: what clients see of bad instances, with and without each protection; REQUESTS=200 for a quick look
	TABLE=$(CURDIR)/docs/backends-table.md go test ./test/badbackend -run '^$$' -bench . -benchtime 1x -timeout 1h

demo: build ## the main job, on this machine
	bin/fairlead up examples/hello
