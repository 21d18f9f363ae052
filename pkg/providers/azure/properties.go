package azure

import (
	"net/url"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"

	"github.com/keywell/keywell/pkg/providers"
)

// Type is Dapr's component type.
const Type = "secretstores.azure.keyvault"

// properties lists Dapr's names with all their aliases. Source: dapr/components-contrib, common/authentication/azure.
func properties() []providers.Property {
	return []providers.Property{
		{Name: "vaultName"},
		{Name: "vaultURL"},
		{Name: "azureTenantId", Aliases: []string{"spnTenantId", "tenantId"}},
		{Name: "azureClientId", Aliases: []string{"spnClientId", "clientId"}},
		{Name: "azureClientSecret", Aliases: []string{"spnClientSecret", "clientSecret"}, Secret: true},
		{Name: "azureCertificate", Aliases: []string{"spnCertificate"}, Secret: true},
		{Name: "azureCertificateFile", Aliases: []string{"spnCertificateFile"}},
		{Name: "azureCertificatePassword", Aliases: []string{"spnCertificatePassword"}, Secret: true},
		{Name: "azureEnvironment", Aliases: []string{"azureCloud"}},
		{Name: "azureAuthMethods", Aliases: []string{"azureADAuthMethods", "entraIDAuthMethods", "microsoftEntraIDAuthMethods"}},
		{Name: "azureAuthorityHost"},
		{Name: "tokenAudience"},
	}
}

// settings is what the properties say.
type settings struct {
	vault, scope  string // the vault's URL, and the scope of tokens for it
	customVault   bool
	cloud         cloud.Configuration
	customCloud   bool // an authority that Microsoft's directory of clouds does not know
	tenant        string
	client        string
	clientSecret  string
	certificate   []byte
	password      []byte
	certificateAt string
	methods       []string
	audience      string
}

// environment is one of Microsoft's clouds.
type environment struct {
	names  []string
	suffix string // of vaults
	cloud  cloud.Configuration
}

func environments() []environment {
	return []environment{
		{[]string{"AzurePublicCloud", "AzurePublic"}, "vault.azure.net", cloud.AzurePublic},
		{[]string{"AzureChinaCloud", "AzureChina"}, "vault.azure.cn", cloud.AzureChina},
		{[]string{"AzureUSGovernmentCloud", "AzureUSGovernment"}, "vault.usgovcloudapi.net", cloud.AzureGovernment},
	}
}

// defaultAudience is what a federated credential asks for. Source:
// https://learn.microsoft.com/entra/workload-id/workload-identity-federation.
const defaultAudience = "api://AzureADTokenExchange"

func newSettings(p providers.Properties) (settings, error) {
	d := p.Decode(properties())
	s := settings{
		tenant: d.String("azureTenantId", ""), client: d.String("azureClientId", ""),
		clientSecret:  string(d.Secret("azureClientSecret").Reveal()),
		certificate:   d.Secret("azureCertificate").Reveal(),
		certificateAt: d.String("azureCertificateFile", ""),
		password:      d.Secret("azureCertificatePassword").Reveal(),
		audience:      d.String("tokenAudience", defaultAudience),
	}
	name, at := d.String("vaultName", ""), d.String("vaultURL", "")
	wanted, authority := d.String("azureEnvironment", ""), d.String("azureAuthorityHost", "")
	methods := d.String("azureAuthMethods", "")
	if err := d.Err(); err != nil {
		return s, err
	}
	if err := s.place(name, at, wanted, authority); err != nil {
		return s, err
	}
	var err error
	s.methods, err = methodsOf(methods)
	return s, err
}

// place finds out where the vault is and who gives tokens for it.
func (s *settings) place(name, at, wanted, authority string) error {
	env := environments()[0]
	if wanted != "" {
		i := slices.IndexFunc(environments(), func(e environment) bool {
			return slices.ContainsFunc(e.names, func(n string) bool { return strings.EqualFold(n, wanted) })
		})
		if i < 0 {
			return providers.Errorf(providers.Invalid, `metadata field "azureEnvironment" is none of AzurePublicCloud, AzureChinaCloud and AzureUSGovernmentCloud`)
		}
		env = environments()[i]
	}
	name = strings.TrimSuffix(strings.TrimPrefix(name, "https://"), "/")
	for _, e := range environments() { // a full name says which cloud it is
		if bare, ok := strings.CutSuffix(name, "."+e.suffix); ok {
			name, env = bare, e
		}
	}
	switch {
	case at != "":
		u, err := url.Parse(at)
		if err != nil || u.Scheme != "https" || u.Host == "" {
			return providers.Errorf(providers.Invalid, `metadata field "vaultURL" is not a URL such as https://host`)
		}
		s.vault, s.customVault = strings.TrimSuffix(at, "/"), true
	case !isVaultName(name):
		return providers.Errorf(providers.Invalid, `metadata field "vaultName" is neither the name nor the address of a vault`)
	default:
		s.vault = "https://" + name + "." + env.suffix
	}
	s.scope, s.cloud = "https://"+env.suffix+"/.default", env.cloud
	if authority != "" {
		u, err := url.Parse(authority)
		if err != nil || u.Scheme != "https" || u.Host == "" {
			return providers.Errorf(providers.Invalid, `metadata field "azureAuthorityHost" is not a URL such as https://login.microsoftonline.com`)
		}
		s.cloud.ActiveDirectoryAuthorityHost, s.customCloud = authority, true
	}
	return nil
}

// The methods of the default chain, in Dapr's order, and their short names. Dapr's SPIFFE method has no counterpart: a pod's
// identity is its service account.
const (
	clientCredentials = "clientcredentials"
	clientCertificate = "clientcertificate"
	workloadIdentity  = "workloadidentity"
	managedIdentity   = "managedidentity"
	commandLine       = "commandlineinterface"
)

func defaultMethods() []string {
	return []string{clientCredentials, clientCertificate, workloadIdentity, managedIdentity, commandLine}
}

// methodsOf reads a list of methods; an empty one is the default.
func methodsOf(list string) ([]string, error) {
	short := map[string]string{"creds": clientCredentials, "cert": clientCertificate, "wi": workloadIdentity, "mi": managedIdentity, "cli": commandLine}
	if strings.TrimSpace(list) == "" {
		return defaultMethods(), nil
	}
	var methods []string
	for _, name := range strings.Split(list, ",") {
		name = strings.ToLower(strings.TrimSpace(name))
		if long, ok := short[name]; ok {
			name = long
		}
		switch {
		case name == "":
		case name == "none":
			return nil, providers.Errorf(providers.Invalid, `metadata field "azureAuthMethods" is none: no way to authenticate is left`)
		case name == "spiffe" || name == "spiffeworkloadidentity":
			return nil, providers.Errorf(providers.Invalid, `metadata field "azureAuthMethods": the agent has no SPIFFE identity; use workloadidentity, or identity: pod`)
		case !slices.Contains(defaultMethods(), name):
			return nil, providers.Errorf(providers.Invalid, `metadata field "azureAuthMethods" has an unknown method: write some of %s`, strings.Join(defaultMethods(), ", "))
		default:
			methods = append(methods, name)
		}
	}
	return methods, nil
}

// isVaultName tells whether s can be a vault's name. Source: https://aka.ms/keyvault-naming.
func isVaultName(s string) bool { return len(s) >= 3 && len(s) <= 24 && isName(s) }

// isName tells whether s can be the name of an object in a vault, or its version.
func isName(s string) bool { return providers.ConsistsOf(s, 127, "-") }
