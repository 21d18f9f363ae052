package vault

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/secret"
)

// The ways to get a token.
const (
	methodToken      = "token"
	methodKubernetes = "kubernetes"
	methodJWT        = "jwt"
	methodAppRole    = "approle"
	methodCert       = "cert"
	methodUserpass   = "userpass"
)

// checkAuth refuses a configuration that can't log in.
func (c config) checkAuth() error {
	a := c.auth
	if c.asPod && a.method != methodKubernetes && a.method != methodJWT {
		return invalid("vaultAuthMethod", "must be kubernetes or jwt where identity is pod")
	}
	switch a.method {
	case methodToken:
		if (a.token.Len() > 0) == (a.tokenPath != "") {
			return invalid("vaultToken", "or vaultTokenMountPath is needed, and not both; or choose another vaultAuthMethod")
		}
	case methodKubernetes:
		if a.role == "" {
			return invalid("vaultAuthRole", "is needed to log in by kubernetes")
		}
	case methodJWT:
	case methodAppRole:
		if a.roleID == "" {
			return invalid("vaultRoleID", "is needed to log in by approle")
		}
		if a.secretID.Len() > 0 && a.secretIDPath != "" {
			return invalid("vaultSecretID", "and vaultSecretIDPath exclude each other")
		}
	case methodCert:
		if c.tls.certificate == "" {
			return invalid("tlsClientCertPath", "is needed to log in by cert")
		}
	case methodUserpass:
		if a.username == "" || a.password.Len() == 0 || strings.ContainsAny(a.username, "/") {
			return invalid("vaultUsername", "and vaultPassword are needed to log in by userpass")
		}
	default:
		return invalid("vaultAuthMethod", "is not one of token, kubernetes, jwt, approle, cert, userpass")
	}
	return nil
}

// mount is where the method is mounted, below auth/.
func (a authConfig) mount() string {
	if a.mountPath != "" {
		return strings.TrimPrefix(a.mountPath, "auth/")
	}
	return a.method
}

// authenticator logs in as configured. It is safe for concurrent use.
type authenticator struct {
	config config
	client *client

	mu       sync.Mutex
	wrapping secret.Value // the last wrapping token that was used
	secretID secret.Value // what it gave
}

// login gets a token. tokens are the pod's, nil for the agent.
func (a *authenticator) login(ctx context.Context, tokens providers.TokenSource) (login, error) {
	auth := a.config.auth
	if auth.method == methodToken {
		return a.given(ctx)
	}
	path, body := "auth/"+auth.mount()+"/login", map[string]any{}
	if auth.role != "" {
		body["role"] = auth.role
	}
	switch auth.method {
	case methodKubernetes, methodJWT:
		jwt, err := a.jwt(ctx, tokens)
		if err != nil {
			return login{}, err
		}
		body["jwt"] = string(jwt.Reveal())
	case methodAppRole:
		id, err := a.appRoleSecret(ctx)
		if err != nil {
			return login{}, err
		}
		body = map[string]any{"role_id": auth.roleID}
		if id.Len() > 0 {
			body["secret_id"] = string(id.Reveal())
		}
	case methodCert:
		body = map[string]any{}
		if auth.role != "" {
			body["name"] = auth.role
		}
	case methodUserpass:
		path += "/" + auth.username
		body = map[string]any{"password": string(auth.password.Reveal())}
	}
	begun := time.Now()
	got, err := a.client.do(ctx, request{method: http.MethodPost, path: path, body: body})
	if err != nil {
		return login{}, loginError(auth.method, err)
	}
	if got.Auth == nil || got.Auth.Token == "" {
		return login{}, providers.Errorf(providers.Denied, "log in by %s: Vault gave no token; is a second factor wanted?", auth.method)
	}
	return loginOf(*got.Auth, begun), nil
}

// loginError says that it was the login that failed. What is malformed in a login is its credentials.
func loginError(method string, err error) error {
	kind := providers.KindOf(err)
	if kind == providers.Invalid || kind == providers.NotFound {
		kind = providers.Denied
	}
	return &providers.Error{Kind: kind, RetryAfter: providers.RetryAfter(err), Err: fmt.Errorf("log in by %s: %w", method, err)}
}

// jwt returns the token of the pod or, for the agent, the one in its file.
func (a *authenticator) jwt(ctx context.Context, tokens providers.TokenSource) (secret.Value, error) {
	if !a.config.asPod {
		return providers.ReadCredential("vaultJWTPath", a.config.auth.jwtPath)
	}
	jwt, _, err := tokens.Token(ctx, a.config.auth.audience)
	return jwt, err
}

// appRoleSecret returns the secret id, unwrapped if it comes wrapped. A wrapping token works once, so what it gave is
// kept for the logins to come.
func (a *authenticator) appRoleSecret(ctx context.Context) (secret.Value, error) {
	id := a.config.auth.secretID
	if path := a.config.auth.secretIDPath; path != "" {
		var err error
		if id, err = providers.ReadCredential("vaultSecretIDPath", path); err != nil {
			return secret.Value{}, err
		}
	}
	if !a.config.auth.secretIDWrapped || id.Len() == 0 {
		return id, nil
	}
	a.mu.Lock()
	known, unwrapped := a.wrapping, a.secretID
	a.mu.Unlock()
	if known.Len() > 0 && known.Equal(id) {
		return unwrapped, nil
	}
	got, err := a.client.do(ctx, request{method: http.MethodPost, path: "sys/wrapping/unwrap", token: id})
	if err != nil {
		return secret.Value{}, loginError("approle, unwrap the secret id (was it unwrapped before, here or by somebody else?)", err)
	}
	if unwrapped = text(got.Data["secret_id"]); unwrapped.Len() == 0 {
		return secret.Value{}, providers.Errorf(providers.Denied, "log in by approle: what is wrapped is no secret id")
	}
	a.mu.Lock()
	a.wrapping, a.secretID = id, unwrapped
	a.mu.Unlock()
	return unwrapped, nil
}

// given returns the token of the manifest or of its file, with what Vault says about how long it lives. A token that may
// not ask is taken to live on.
func (a *authenticator) given(ctx context.Context) (login, error) {
	token := a.config.auth.token
	if path := a.config.auth.tokenPath; path != "" {
		var err error
		if token, err = providers.ReadCredential("vaultTokenMountPath", path); err != nil {
			return login{}, err
		}
	}
	begun := time.Now()
	got, err := a.client.do(ctx, request{method: http.MethodGet, path: lookupSelf, token: token})
	if err != nil && providers.KindOf(err) != providers.Denied {
		return login{}, err
	}
	l := login{token: token, issued: begun}
	l.ttl = time.Duration(number(got.Data["ttl"])) * time.Second
	l.renewable = string(got.Data["renewable"]) == "true"
	return l, nil
}
