// Command server is a real Vault for tests: the core with only the engines that the tests use, in memory, unsealed, over
// TLS on loopback. It says where it is in one line of JSON on its standard output, and ends when its standard input does,
// so that it doesn't outlive the test that started it.
//
// Vault's own main links every cloud's SDK and takes half an hour to build; this one takes minutes, once.
package main

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	jwtauth "github.com/hashicorp/vault-plugin-auth-jwt"
	kubernetesauth "github.com/hashicorp/vault-plugin-auth-kubernetes"
	kv "github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/audit"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/credential/cert"
	"github.com/hashicorp/vault/builtin/credential/userpass"
	"github.com/hashicorp/vault/builtin/logical/database"
	"github.com/hashicorp/vault/builtin/logical/pki"
	"github.com/hashicorp/vault/builtin/logical/totp"
	"github.com/hashicorp/vault/builtin/logical/transit"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/plugins/database/postgresql"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
)

// ready is what the server says of itself once it serves.
type ready struct {
	Addr      string `json:"addr"` // https://127.0.0.1:port
	CA        string `json:"ca"`   // PEM
	Token     string `json:"token"`
	UnsealKey string `json:"unseal_key"` // hex
}

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address of the API")
	level := flag.String("log-level", "error", "level of the log on standard error")
	flag.Parse()
	if err := run(*listen, *level); err != nil {
		log.Fatal(err)
	}
}

func run(listen, level string) error {
	logger := hclog.New(&hclog.LoggerOptions{Level: hclog.LevelFromString(level)})
	core, said, err := newCore(logger)
	if err != nil {
		return err
	}
	certificate, ca, err := selfSigned()
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	said.Addr, said.CA = "https://"+listener.Addr().String(), ca

	server := &http.Server{
		Handler: vaulthttp.Handler.Handler(&vault.HandlerProperties{Core: core, ListenerConfig: &configutil.Listener{}}),
		// The certificate auth method decides about the client's certificate itself.
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{certificate}, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12},
		ErrorLog:          log.New(io.Discard, "", 0),
		ReadHeaderTimeout: 10 * time.Second,
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	if err := json.NewEncoder(os.Stdout).Encode(said); err != nil {
		return err
	}
	return server.ServeTLS(listener, "", "")
}

func newCore(logger hclog.Logger) (*vault.Core, ready, error) {
	storage, err := inmem.NewInmem(nil, logger)
	if err != nil {
		return nil, ready{}, err
	}
	core, err := vault.NewCore(&vault.CoreConfig{
		Physical:        storage,
		Logger:          logger,
		DisableMlock:    true,
		BuiltinRegistry: registry{},
		CredentialBackends: map[string]logical.Factory{
			"approle": approle.Factory, "cert": cert.Factory, "userpass": userpass.Factory,
			"jwt": jwtauth.Factory, "kubernetes": kubernetesauth.Factory,
		},
		LogicalBackends: map[string]logical.Factory{
			"kv": kv.Factory, "pki": pki.Factory, "transit": transit.Factory, "totp": totp.Factory, "database": database.Factory,
		},
		AuditBackends: map[string]audit.Factory{"file": audit.NewFileBackend},
	})
	if err != nil {
		return nil, ready{}, err
	}
	shares := &vault.SealConfig{SecretShares: 1, SecretThreshold: 1}
	initialised, err := core.Initialize(context.Background(), &vault.InitParams{BarrierConfig: shares, RecoveryConfig: shares})
	if err != nil {
		return nil, ready{}, err
	}
	key := initialised.SecretShares[0]
	if unsealed, err := core.Unseal(key); err != nil || !unsealed {
		return nil, ready{}, fmt.Errorf("unseal: %t: %w", unsealed, err)
	}
	for core.ActiveNodeReplicationState() == 0 && core.Sealed() {
		time.Sleep(time.Millisecond)
	}
	return core, ready{Token: initialised.RootToken, UnsealKey: hex.EncodeToString(key)}, nil
}

// registry offers the one database plugin that the tests use.
type registry struct{}

const postgres = "postgresql-database-plugin"

func (registry) Contains(name string, kind consts.PluginType) bool {
	return name == postgres && kind == consts.PluginTypeDatabase
}

func (r registry) Get(name string, kind consts.PluginType) (func() (any, error), bool) {
	if !r.Contains(name, kind) {
		return nil, false
	}
	return postgresql.New, true
}

func (registry) Keys(kind consts.PluginType) []string {
	if kind == consts.PluginTypeDatabase {
		return []string{postgres}
	}
	return nil
}

func (r registry) DeprecationStatus(name string, kind consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, r.Contains(name, kind)
}

func (registry) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }
