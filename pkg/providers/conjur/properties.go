package conjur

import (
	"net"
	"net/netip"
	"net/url"
	"strings"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/secret"
)

// Type is the component type. Dapr has no Conjur; the name is like those that it has.
const Type = "secretstores.cyberark.conjur"

// The authenticators, as they are called in Conjur's paths.
const (
	methodKey = "authn"
	methodJWT = "authn-jwt"
)

const (
	// serviceAccountToken is where a pod's own token is, the agent's here.
	serviceAccountToken = "/var/run/secrets/kubernetes.io/serviceaccount/token"
	// defaultAudience is what Conjur's provider for the Secrets Store CSI driver has tokens for.
	defaultAudience = "conjur"
)

// properties are called as in Conjur's own tools; aliases are the spellings of .conjurrc and of its CSI provider.
func properties() []providers.Property {
	return []providers.Property{
		{Name: "applianceUrl", Aliases: []string{"appliance_url"}, Required: true},
		{Name: "account", Required: true},
		{Name: "authnType", Aliases: []string{"authn_type"}},
		{Name: "serviceId", Aliases: []string{"service_id"}},
		{Name: "login", Aliases: []string{"authnLogin", "hostId"}},
		{Name: "apiKey", Aliases: []string{"authnApiKey"}, Secret: true},
		{Name: "apiKeyPath"},
		{Name: "jwtPath", Aliases: []string{"jwtTokenPath"}},
		{Name: "tokenAudience"},
		{Name: "caCert", Aliases: []string{"sslCertificate", "certFile", "cert_file"}},
		{Name: "allowHttp"},
		{Name: "multipleKeyValuesPerSecret"},
		{Name: "nestedSeparator"},
	}
}

// settings is what the properties say.
type settings struct {
	url     *url.URL // without a slash at the end
	account string
	ca      string // PEM, or a file of it; empty: the system's

	method     string // of authentication
	serviceID  string
	login      string // who logs in; empty: the token says it
	apiKey     secret.Value
	apiKeyPath string
	jwtPath    string
	audience   string
	asPod      bool

	split     bool   // a value that is a JSON object is several fields
	separator string // between the names of nested members; empty: they are not taken apart
}

func newSettings(p providers.Properties, as providers.Identity) (settings, error) {
	d := p.Decode(properties())
	s := settings{
		account: d.String("account", ""), ca: d.String("caCert", ""),
		method: d.String("authnType", ""), serviceID: d.String("serviceId", ""), login: d.String("login", ""),
		apiKey: d.Secret("apiKey"), apiKeyPath: d.String("apiKeyPath", ""), jwtPath: d.String("jwtPath", serviceAccountToken),
		audience: d.String("tokenAudience", defaultAudience), asPod: as == providers.AsPod,
		split: d.Truthy("multipleKeyValuesPerSecret", false), separator: d.String("nestedSeparator", ""),
	}
	if err := d.Err(); err != nil {
		return s, err
	}
	var err error
	if s.url, err = address(d.String("applianceUrl", ""), d.Truthy("allowHttp", false)); err != nil {
		return s, err
	}
	if strings.ContainsAny(s.account, "/:?#%") {
		return s, invalid("account", "is not the name of an account")
	}
	return s, s.checkLogin()
}

// address reads the URL. What is sent there, a password or a token, must not be read on the way.
func address(text string, allowHTTP bool) (*url.URL, error) {
	u, err := url.Parse(strings.TrimRight(text, "/"))
	switch {
	case err != nil, u.Host == "", u.Scheme != "https" && u.Scheme != "http":
		return nil, invalid("applianceUrl", "is not a URL such as https://conjur.example.com")
	case u.User != nil, u.RawQuery != "", u.Fragment != "":
		return nil, invalid("applianceUrl", "has more than a scheme, a host and a path")
	case u.Scheme == "http" && !allowHTTP && !isLoopback(u.Hostname()):
		return nil, invalid("applianceUrl", `is not https, so that tokens and secrets could be read on the way; allowHttp: "true" permits it`)
	}
	return u, nil
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && net.IP(ip.AsSlice()).IsLoopback()
}

// checkLogin refuses a configuration that can't log in.
func (s *settings) checkLogin() error {
	if s.method == "" && s.serviceID != "" {
		s.method = methodJWT
	}
	switch s.method {
	case "", methodKey:
		s.method = methodKey
		return s.checkKey()
	case methodJWT, strings.TrimPrefix(methodJWT, "authn-"): // as .conjurrc has it
		s.method = methodJWT
	default:
		return invalid("authnType", "is neither authn nor authn-jwt")
	}
	switch {
	case s.serviceID == "":
		return invalid("serviceId", "is required for authn-jwt: the ID of the authenticator's web service")
	case s.apiKey.Len() > 0 || s.apiKeyPath != "":
		return invalid("apiKey", "is not used by authn-jwt: leave it out, or serviceId and authnType")
	case !s.asPod && s.login != s.loginOf(providers.Caller{}):
		return invalid("login", "names a pod's namespace or service account, which there is only with identity: pod")
	}
	return nil
}

func (s *settings) checkKey() error {
	switch {
	case s.asPod:
		return invalid("serviceId", "is required with identity: pod: pods log in by authn-jwt")
	case s.login == "":
		return invalid("login", "is required for authn, such as host/apps/keywell")
	case (s.apiKey.Len() > 0) == (s.apiKeyPath != ""):
		return invalid("apiKey", "or apiKeyPath is required for authn, and not both")
	}
	return nil
}

// loginOf returns who logs in for a pod: login with the pod's namespace and service account put in.
func (s *settings) loginOf(caller providers.Caller) string {
	return strings.NewReplacer("{namespace}", caller.Namespace, "{serviceAccount}", caller.ServiceAccount).Replace(s.login)
}

func invalid(property, problem string) error {
	return providers.Errorf(providers.Invalid, "metadata field %q %s", property, problem)
}
