package azure

import (
	"context"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/keywell/keywell/pkg/providers"
)

// source is one way to get tokens.
type source struct {
	method     string
	credential azcore.TokenCredential
	timeout    time.Duration // of the first try; zero: none of its own
}

// Timeouts of the first try, as in Dapr: outside Azure nobody answers at the address of managed identities.
const (
	probeTimeout = time.Second
	cliTimeout   = 30 * time.Second
)

// chain asks one source after the other, until one has given a token: from then on that one alone.
type chain struct {
	sources []source

	mu     sync.Mutex
	chosen azcore.TokenCredential
}

// newChain returns the sources that the settings and the environment allow, in the order of the methods.
func newChain(s settings, client azcore.ClientOptions) (*chain, error) {
	c := &chain{}
	for _, method := range s.methods {
		credential, err := s.credential(method, client)
		if err != nil {
			return nil, providers.Errorf(providers.Invalid, "credentials of method %s can't be used: check the tenant, the client and the certificate", method)
		}
		if credential == nil {
			continue
		}
		timeout := map[string]time.Duration{managedIdentity: probeTimeout, commandLine: cliTimeout}[method]
		if method == managedIdentity && len(s.methods) == 1 {
			timeout = 0
		}
		c.sources = append(c.sources, source{method, credential, timeout})
	}
	if len(c.sources) == 0 {
		return nil, providers.Errorf(providers.Invalid, "no way to authenticate: set what one of the methods %v needs", s.methods)
	}
	return c, nil
}

// credential returns what one method uses; nil if something that it needs is not set.
func (s settings) credential(method string, client azcore.ClientOptions) (azcore.TokenCredential, error) {
	switch method {
	case clientCredentials:
		if s.tenant == "" || s.client == "" || s.clientSecret == "" {
			return nil, nil
		}
		return azidentity.NewClientSecretCredential(s.tenant, s.client, s.clientSecret,
			&azidentity.ClientSecretCredentialOptions{ClientOptions: client, DisableInstanceDiscovery: s.customCloud})
	case clientCertificate:
		return s.certificateCredential(client)
	case workloadIdentity:
		if slices.ContainsFunc([]string{"AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE"}, func(n string) bool { return os.Getenv(n) == "" }) {
			return nil, nil
		}
		return azidentity.NewWorkloadIdentityCredential(
			&azidentity.WorkloadIdentityCredentialOptions{ClientOptions: client, DisableInstanceDiscovery: s.customCloud})
	case managedIdentity:
		options := &azidentity.ManagedIdentityCredentialOptions{ClientOptions: client}
		if s.client != "" {
			options.ID = azidentity.ClientID(s.client)
		}
		return azidentity.NewManagedIdentityCredential(options)
	default:
		return azidentity.NewAzureCLICredential(&azidentity.AzureCLICredentialOptions{TenantID: s.tenant})
	}
}

// certificateCredential reads a certificate with its key, PFX or PEM.
func (s settings) certificateCredential(client azcore.ClientOptions) (azcore.TokenCredential, error) {
	data := s.certificate
	if s.tenant == "" || s.client == "" || len(data) == 0 && s.certificateAt == "" {
		return nil, nil
	}
	if len(data) == 0 {
		var err error
		if data, err = os.ReadFile(s.certificateAt); err != nil {
			return nil, err
		}
	}
	certificates, key, err := azidentity.ParseCertificates(data, s.password)
	if err != nil {
		return nil, err
	}
	return azidentity.NewClientCertificateCredential(s.tenant, s.client, certificates, key,
		&azidentity.ClientCertificateCredentialOptions{ClientOptions: client, DisableInstanceDiscovery: s.customCloud})
}

// GetToken returns a token of the first source that has one.
func (c *chain) GetToken(ctx context.Context, opts policy.TokenRequestOptions) (azcore.AccessToken, error) {
	c.mu.Lock()
	chosen := c.chosen
	c.mu.Unlock()
	if chosen != nil {
		return chosen.GetToken(ctx, opts)
	}
	var first error
	for _, s := range c.sources {
		token, err := s.try(ctx, opts)
		if err == nil {
			c.mu.Lock()
			c.chosen = s.credential
			c.mu.Unlock()
			return token, nil
		}
		if first == nil { // of what the manifest is most explicit about
			first = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return azcore.AccessToken{}, first
}

func (s source) try(ctx context.Context, opts policy.TokenRequestOptions) (azcore.AccessToken, error) {
	if s.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.timeout)
		defer cancel()
	}
	token, err := s.credential.GetToken(ctx, opts)
	if err != nil {
		return token, failedLogin(ctx, s.method, err)
	}
	return token, nil
}

// scoped asks for tokens of one scope in the manifest's tenant, whatever the challenge of a vault says: else a vault at an
// address of its own could ask for a token for something else.
type scoped struct {
	credential azcore.TokenCredential
	scope      string
}

// GetToken ignores the scope and the tenant that are asked for.
func (s scoped) GetToken(ctx context.Context, opts policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return s.credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{s.scope}, EnableCAE: opts.EnableCAE})
}

// fixed is a token that is replaced as a whole, with the session that it belongs to.
type fixed azcore.AccessToken

// GetToken returns it.
func (f fixed) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken(f), nil
}
