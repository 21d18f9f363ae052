package azure

import (
	"context"
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/connect"
	"github.com/keywell/keywell/pkg/providers/exchange"
)

// What a service account says about the identity of its pods. Source:
// https://azure.github.io/azure-workload-identity/docs/topics/service-account-labels-and-annotations.html.
const (
	clientAnnotation = "azure.workload.identity/client-id"
	tenantAnnotation = "azure.workload.identity/tenant-id"
)

// sessions gives what reads are made with: one session for the agent, or one for each service account.
type sessions struct {
	settings
	*exchange.Cache[*session]
	http     *http.Client
	options  azcore.ClientOptions
	accounts providers.ServiceAccounts
}

// session is the clients of one identity.
type session struct {
	secrets *azsecrets.Client
	keys    *azkeys.Client
}

func newSessions(s settings, cfg providers.Config, dial connect.Dialer) (*sessions, error) {
	all := &sessions{settings: s, accounts: cfg.ServiceAccounts, http: connect.Client(dial)}
	all.options = azcore.ClientOptions{
		Cloud:     s.cloud,
		Retry:     policy.RetryOptions{MaxRetries: -1}, // package resolve retries
		Transport: all.http,
	}
	if cfg.Identity == providers.AsPod {
		all.Cache = exchange.New(all.login)
		return all, nil
	}
	credentials, err := newChain(s, all.options)
	if err != nil {
		return nil, err
	}
	agent, err := all.session(credentials)
	all.Cache = exchange.Fixed(agent)
	return all, err
}

func (s *sessions) session(credential azcore.TokenCredential) (*session, error) {
	credential = scoped{credential, s.scope}
	secrets, err := azsecrets.NewClient(s.vault, credential, &azsecrets.ClientOptions{
		ClientOptions: s.options, DisableChallengeResourceVerification: s.customVault, // scoped verifies more
	})
	if err != nil {
		return nil, providers.Errorf(providers.Invalid, "client of the vault: %w", err)
	}
	keys, err := azkeys.NewClient(s.vault, credential, &azkeys.ClientOptions{
		ClientOptions: s.options, DisableChallengeResourceVerification: s.customVault,
	})
	if err != nil {
		return nil, providers.Errorf(providers.Invalid, "client of the vault: %w", err)
	}
	return &session{secrets, keys}, nil
}

// noteError gives up a token that the vault does not accept, so that the next read gets another.
func (s *sessions) noteError(q providers.Query, used *session, err error) {
	if statusOf(err) == http.StatusUnauthorized {
		s.Drop(q, used)
	}
}

// login exchanges the token of q's pod for one of its identity.
func (s *sessions) login(ctx context.Context, q providers.Query) (*session, time.Time, error) {
	tenant, client, err := s.identityOf(ctx, q)
	if err != nil {
		return nil, time.Time{}, err
	}
	assertion, err := exchange.Token(ctx, q, s.audience)
	if err != nil {
		return nil, time.Time{}, err
	}
	credential, err := azidentity.NewClientAssertionCredential(tenant, client,
		func(context.Context) (string, error) { return assertion, nil },
		&azidentity.ClientAssertionCredentialOptions{ClientOptions: s.options, DisableInstanceDiscovery: s.customCloud})
	if err != nil {
		return nil, time.Time{}, providers.Errorf(providers.Invalid, "tenant %q and client %q of service account %s/%s can't be used",
			tenant, client, q.Caller.Namespace, q.Caller.ServiceAccount)
	}
	token, err := credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{s.scope}})
	if err != nil {
		return nil, time.Time{}, failedLogin(ctx, "identity of client "+client, err)
	}
	made, err := s.session(fixed(token))
	return made, token.ExpiresOn, err
}

// identityOf returns the identity that the caller's service account names or, if it names none, the manifest.
func (s *sessions) identityOf(ctx context.Context, q providers.Query) (tenant, client string, _ error) {
	annotations, err := exchange.Annotations(ctx, s.accounts, q)
	if err != nil {
		return "", "", err
	}
	tenant, client = s.tenant, s.client
	if id := annotations[clientAnnotation]; id != "" {
		client = id
		if t := annotations[tenantAnnotation]; t != "" {
			tenant = t
		}
	}
	switch {
	case client == "":
		return "", "", exchange.Unnamed("identity", s.accounts, q, clientAnnotation, "azureClientId")
	case tenant == "":
		return "", "", exchange.Unnamed("tenant", s.accounts, q, tenantAnnotation, "azureTenantId")
	}
	return tenant, client, nil
}
