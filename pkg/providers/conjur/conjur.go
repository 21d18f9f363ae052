package conjur

import (
	"context"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/connect"
	"github.com/keywell/keywell/pkg/providers/exchange"
	"github.com/keywell/keywell/pkg/providers/members"
	"github.com/keywell/keywell/pkg/secret"
)

// selectors of a query: there are no namespaces and no stages.
var selectors = providers.Selectors{Version: true}

// Driver returns the driver.
func Driver() providers.Driver { return driver(nil) }

func driver(dial connect.Dialer) providers.Driver {
	return providers.Driver{
		Type:       Type,
		Properties: properties(),
		MultipleKeyValues: func(cfg providers.Config) bool {
			return cfg.Properties.Decode(properties()).Truthy("multipleKeyValuesPerSecret", false)
		},
		Identities: []providers.Identity{providers.AsAgent, providers.AsPod},
		Selectors:  selectors,
		Open: func(_ context.Context, cfg providers.Config) (providers.Provider, error) {
			s, err := newSettings(cfg.Properties, cfg.Identity)
			if err != nil {
				return nil, err
			}
			c, err := newClient(s, dial)
			if err != nil {
				return nil, err
			}
			return &store{Gate: providers.NewGate(selectors, c.http.CloseIdleConnections), settings: s, sessions: newSessions(s, c)}, nil
		},
	}
}

// store is the Provider: the variables of one account.
type store struct {
	*providers.Gate
	settings
	sessions *exchange.Cache[*session]
}

// Fetch reads a variable. Conjur does not say which version an answer is; a version that is asked for is its number.
func (s *store) Fetch(ctx context.Context, q providers.Query) (providers.Payload, error) {
	if err := s.Enter(ctx, q); err != nil {
		return providers.Payload{}, err
	}
	if err := checkName(q.Name); err != nil {
		return providers.Payload{}, err
	}
	if err := checkVersion(q); err != nil {
		return providers.Payload{}, err
	}
	var value secret.Value
	asked := time.Now()
	err := s.as(ctx, q, func(who *session) (err error) {
		if q.Version == "" && !isDynamic(q.Name) {
			value, err = who.values.Get(ctx, q.Name)
		} else {
			value, err = who.read(ctx, q.Name, q.Version)
		}
		return err
	})
	if err != nil {
		return providers.Payload{}, ended(ctx, err)
	}
	p := providers.Payload{Version: q.Version}
	if life := lifeOfIssued(value); isDynamic(q.Name) && life > 0 {
		p.Issued, p.NotAfter = true, asked.Add(life)
	}
	if s.split {
		p.Fields = members.Of(string(value.Reveal()), s.separator)
	}
	if p.Fields == nil {
		p.Fields = map[string]secret.Value{q.Name: value}
	}
	return p, nil
}

// as calls do with the session for q and, if Conjur does not accept its token, once more with another.
func (s *store) as(ctx context.Context, q providers.Query, do func(*session) error) error {
	for again := false; ; again = true {
		who, err := s.sessions.Get(ctx, q)
		if err != nil {
			return err
		}
		if err = do(who); !refusedToken(err) {
			return err
		}
		s.sessions.Drop(q, who)
		if again {
			return err
		}
	}
}

// ended makes err one of ctx where that has ended: a reader that gives up a batch has no other.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return providers.Errorf(providers.Unavailable, "wait for Conjur: %w", ctx.Err())
	}
	return err
}

// checkVersion refuses what is no version.
func checkVersion(q providers.Query) error {
	n, err := strconv.Atoi(q.Version)
	switch {
	case q.Version == "":
		return nil
	case err != nil || n < 1 || strconv.Itoa(n) != q.Version:
		return providers.Errorf(providers.Invalid, "%.100q is asked for, and versions are numbers from 1 on", q.Version)
	case isDynamic(q.Name):
		return providers.Errorf(providers.Invalid, "version %s is asked for, and dynamic secrets have none", q.Version)
	}
	return nil
}

// checkName refuses what no variable can be called, and what something on the way might take for another path.
func checkName(name string) error {
	const longest = 2000 // bytes: servers take lines of some thousand, and escaping makes three of one
	if name == "" || len(name) > longest || !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return providers.Errorf(providers.Invalid, "%.100q can't be the ID of a variable", name)
	}
	for segment := range strings.SplitSeq(name, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return providers.Errorf(providers.Invalid, "%.100q has a segment that is empty, . or ..", name)
		}
	}
	return nil
}

// Interface guard.
var _ interface {
	providers.Lister
	providers.Issuer
} = (*store)(nil)
