package conjur

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strings"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/exchange"
	"github.com/keywell/keywell/pkg/providers/gather"
	"github.com/keywell/keywell/pkg/secret"
)

// defaultLife is how long an access token is valid that does not say it.
const defaultLife = 8 * time.Minute

// session is the access token of one identity, and what is learned with it.
type session struct {
	*client
	account string
	token   secret.Value // as the header has it
	values  *gather.Gatherer[secret.Value]
	apart   names    // not to be read in batches
	may     findings // what listing has found out
}

// newSessions returns the sessions of a store: one for the agent, or one for each service account.
func newSessions(s settings, c *client) *exchange.Cache[*session] {
	l := &logins{settings: s, client: c}
	if s.asPod {
		return exchange.New(l.forPod)
	}
	return exchange.NewShared(l.forAgent)
}

// logins exchanges credentials for access tokens.
type logins struct {
	settings
	client *client
}

// forAgent logs in with what the manifest says.
func (l *logins) forAgent(ctx context.Context, _ providers.Query) (*session, time.Time, error) {
	if l.method == methodJWT {
		jwt, err := providers.ReadCredential("jwtPath", l.jwtPath)
		if err != nil {
			return nil, time.Time{}, err
		}
		return l.byToken(ctx, "", l.login, jwt)
	}
	key := l.apiKey
	if l.apiKeyPath != "" {
		var err error
		if key, err = providers.ReadCredential("apiKeyPath", l.apiKeyPath); err != nil {
			return nil, time.Time{}, err
		}
	}
	return l.makeSession(ctx, request{
		act: "log in to Conjur as " + l.login, path: []string{methodKey, l.account, l.login, "authenticate"},
		form: string(key.Reveal()), kind: "text/plain",
	})
}

// forPod logs in with the token of q's pod.
func (l *logins) forPod(ctx context.Context, q providers.Query) (*session, time.Time, error) {
	jwt, err := exchange.Token(ctx, q, l.audience)
	if err != nil {
		return nil, time.Time{}, err
	}
	who := " for service account " + q.Caller.Namespace + "/" + q.Caller.ServiceAccount
	return l.byToken(ctx, who, l.loginOf(q.Caller), secret.FromString(jwt))
}

func (l *logins) byToken(ctx context.Context, who, login string, jwt secret.Value) (*session, time.Time, error) {
	r := request{
		act: "log in to Conjur by " + methodJWT + "/" + l.serviceID + who, path: []string{methodJWT, l.serviceID, l.account},
		form: "jwt=" + url.QueryEscape(string(jwt.Reveal())), kind: "application/x-www-form-urlencoded",
	}
	if login != "" {
		r.act += " as " + login
		r.path = append(r.path, login)
	}
	r.path = append(r.path, "authenticate")
	return l.makeSession(ctx, r)
}

// makeSession logs in by r.
func (l *logins) makeSession(ctx context.Context, r request) (*session, time.Time, error) {
	asked := time.Now()
	got, err := l.client.do(ctx, r)
	if err != nil {
		return nil, time.Time{}, refusedLogin(r.act, err)
	}
	life, ok := lifeOf(got.body)
	if !ok {
		return nil, time.Time{}, providers.Errorf(providers.Unavailable, "%s: the answer is no access token of Conjur's", r.act)
	}
	s := &session{client: l.client, account: l.account, token: secret.FromString(base64.StdEncoding.EncodeToString(got.body))}
	s.values = gather.New(batchLimit, s.readAll)
	return s, asked.Add(life), nil
}

// lifeOf returns how long an access token lives from when it was issued, so that Conjur's clock does not matter. Source:
// app/domain/token_factory.rb of cyberark/conjur; tokens of earlier versions do not say it.
func lifeOf(token []byte) (time.Duration, bool) {
	var parts struct{ Protected, Payload, Signature string }
	if json.Unmarshal(token, &parts) != nil || parts.Protected == "" || parts.Signature == "" {
		return 0, false
	}
	payload := strings.TrimRight(strings.NewReplacer("-", "+", "_", "/").Replace(parts.Payload), "=")
	claims, err := base64.RawStdEncoding.DecodeString(payload)
	var times struct{ Iat, Exp int64 }
	if err != nil || json.Unmarshal(claims, &times) != nil {
		return 0, false
	}
	if times.Exp == 0 {
		return defaultLife, true
	}
	return time.Duration(times.Exp-times.Iat) * time.Second, true
}
