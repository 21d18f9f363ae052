package vault

import (
	"net/url"
	"slices"
	"strings"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/secret"
)

const (
	valueMap  = "map"
	valueText = "text"

	// serviceAccountToken is where a pod's own token is, the agent's here.
	serviceAccountToken = "/var/run/secrets/kubernetes.io/serviceaccount/token"
)

func properties() []providers.Property {
	return []providers.Property{
		// Dapr's.
		{Name: "vaultAddr"},
		{Name: "vaultToken", Secret: true},
		{Name: "vaultTokenMountPath"},
		{Name: "enginePath"},
		{Name: "vaultKVPrefix"},
		{Name: "vaultKVUsePrefix"},
		{Name: "vaultValueType"},
		{Name: "caPem"},
		{Name: "caPath"},
		{Name: "caCert"},
		{Name: "skipVerify"},
		{Name: "tlsServerName"},
		// Keywell's.
		{Name: "vaultNamespace"},
		{Name: "vaultEngine"},
		{Name: "vaultPollVersions"},
		{Name: "vaultAuthMethod"},
		{Name: "vaultAuthMountPath"},
		{Name: "vaultAuthRole"},
		{Name: "vaultAuthAudience"},
		{Name: "vaultJWTPath"},
		{Name: "vaultRoleID"},
		{Name: "vaultSecretID", Secret: true},
		{Name: "vaultSecretIDPath"},
		{Name: "vaultSecretIDWrapped"},
		{Name: "vaultUsername"},
		{Name: "vaultPassword", Secret: true},
		{Name: "tlsClientCertPath"},
		{Name: "tlsClientKeyPath"},
	}
}

// config is a store's configuration, checked.
type config struct {
	addr         *url.URL
	namespace    string
	enginePath   string // without slashes around it
	prefix       string // of names in a KV engine, with its slash; empty: none
	text         bool   // a secret is one field, its JSON
	kind         engineKind
	pollVersions bool
	tls          tlsConfig
	auth         authConfig
	asPod        bool
}

// tlsConfig says whom to trust. Files are read again at each handshake.
type tlsConfig struct {
	caPEM          string
	caDir, caFile  string
	skipVerify     bool
	serverName     string
	certificate    string // file; empty: none
	certificateKey string
}

// authConfig says how to log in.
type authConfig struct {
	method    string
	mountPath string
	role      string
	audience  string

	token     secret.Value
	tokenPath string

	jwtPath string

	roleID          string
	secretID        secret.Value
	secretIDPath    string
	secretIDWrapped bool

	username string
	password secret.Value
}

// configOf reads a store's configuration. The error names every faulty property.
func configOf(cfg providers.Config) (config, error) {
	d := cfg.Properties.Decode(properties())
	c := config{
		namespace:    strings.Trim(d.String("vaultNamespace", ""), "/"),
		enginePath:   strings.Trim(d.String("enginePath", "secret"), "/"),
		text:         d.String("vaultValueType", valueMap) == valueText,
		kind:         engineKind(d.String("vaultEngine", string(engineDetected))),
		pollVersions: d.Truthy("vaultPollVersions", true),
		asPod:        cfg.Identity == providers.AsPod,
		tls: tlsConfig{
			caPEM:          d.String("caPem", ""),
			caDir:          d.String("caPath", ""),
			caFile:         d.String("caCert", ""),
			skipVerify:     d.String("skipVerify", "") == "true", // as in Dapr, exactly
			serverName:     d.String("tlsServerName", ""),
			certificate:    d.String("tlsClientCertPath", ""),
			certificateKey: d.String("tlsClientKeyPath", ""),
		},
		auth: authConfig{
			method:          d.String("vaultAuthMethod", methodToken),
			mountPath:       strings.Trim(d.String("vaultAuthMountPath", ""), "/"),
			role:            d.String("vaultAuthRole", ""),
			audience:        d.String("vaultAuthAudience", "vault"),
			token:           d.Secret("vaultToken"),
			tokenPath:       d.String("vaultTokenMountPath", ""),
			jwtPath:         d.String("vaultJWTPath", serviceAccountToken),
			roleID:          d.String("vaultRoleID", ""),
			secretID:        d.Secret("vaultSecretID"),
			secretIDPath:    d.String("vaultSecretIDPath", ""),
			secretIDWrapped: d.Truthy("vaultSecretIDWrapped", false),
			username:        d.String("vaultUsername", ""),
			password:        d.Secret("vaultPassword"),
		},
	}
	if prefix := strings.Trim(d.String("vaultKVPrefix", "dapr"), "/"); prefix != "" && d.Truthy("vaultKVUsePrefix", true) {
		c.prefix = prefix + "/"
	}
	var err error
	if err = d.Err(); err != nil {
		return config{}, err
	}
	if c.addr, err = addressOf(d.String("vaultAddr", "https://127.0.0.1:8200")); err != nil {
		return config{}, err
	}
	if valueType := d.String("vaultValueType", valueMap); valueType != valueMap && valueType != valueText {
		return config{}, invalid("vaultValueType", "is neither map nor text")
	}
	if !slices.Contains(engineKinds(), c.kind) {
		return config{}, invalid("vaultEngine", "is not one of "+strings.Join(names(engineKinds()), ", "))
	}
	for name, path := range map[string]string{"enginePath": c.enginePath, "vaultKVPrefix": strings.TrimSuffix(c.prefix, "/"), "vaultAuthMountPath": c.auth.mountPath} {
		if path != "" && checkName(path) != nil {
			return config{}, invalid(name, "is not a path in Vault")
		}
	}
	if c.enginePath == "" {
		return config{}, invalid("enginePath", "is empty")
	}
	if (c.tls.certificate == "") != (c.tls.certificateKey == "") {
		return config{}, invalid("tlsClientCertPath", "and tlsClientKeyPath belong together")
	}
	return c, c.checkAuth()
}

func addressOf(text string) (*url.URL, error) {
	addr, err := url.Parse(text)
	switch {
	case err != nil, addr.Host == "", addr.Scheme != "https" && addr.Scheme != "http":
		return nil, invalid("vaultAddr", "is not a URL such as https://vault.example:8200")
	case addr.User != nil, addr.RawQuery != "", addr.Fragment != "":
		return nil, invalid("vaultAddr", "has more than a scheme, a host and a path")
	}
	addr.Path, addr.RawPath = strings.TrimRight(addr.Path, "/"), ""
	return addr, nil
}

func invalid(property, problem string) error {
	return providers.Errorf(providers.Invalid, "metadata field %q %s", property, problem)
}

func names[T ~string](all []T) []string {
	texts := make([]string, len(all))
	for i, t := range all {
		texts[i] = string(t)
	}
	return texts
}

// checkName refuses names that a path can't spell: a segment that is empty, . or .., and control characters, which Vault
// refuses too.
func checkName(name string) error {
	const longest = 4096 // more does not fit into a request line everywhere
	if len(name) > longest {
		return providers.Errorf(providers.Invalid, "the name is longer than %d bytes", longest)
	}
	for segment := range strings.SplitSeq(name, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return providers.Errorf(providers.Invalid, "the name has a segment that is empty, . or ..")
		}
	}
	if strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return providers.Errorf(providers.Invalid, "the name has a control character")
	}
	return nil
}
