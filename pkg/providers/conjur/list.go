package conjur

import (
	"context"
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/keywell/keywell/pkg/providers"
)

// pageSize is how many variables a page of a listing has. Conjur's own limit can be set; its default is 1000.
const pageSize = 100

// resource is what Conjur tells of a variable, as far as it matters.
type resource struct {
	ID          string
	Owner       string // role; may do everything
	Permissions []struct{ Privilege, Role string }
	Secrets     []struct{ Version int } // without values
}

// List returns the names of the variables that have a value and can be read. Dynamic ones have none before they are read.
// Conjur lists those on which the caller has any
// right.
func (s *store) List(ctx context.Context, q providers.Query) ([]string, error) {
	if err := s.Enter(ctx, q); err != nil {
		return nil, err
	}
	var names []string
	err := s.as(ctx, q, func(who *session) (err error) {
		names, err = who.list(ctx)
		return err
	})
	if err != nil {
		return nil, ended(ctx, err)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func (s *session) list(ctx context.Context) ([]string, error) {
	names := []string{}
	for offset := 0; ; offset += pageSize {
		page, err := s.page(ctx, offset)
		if err != nil {
			return nil, err
		}
		for _, r := range page {
			name, ours := strings.CutPrefix(r.ID, s.id(""))
			if !ours || len(r.Secrets) == 0 || checkName(name) != nil {
				continue
			}
			readable, err := s.mayRead(ctx, name, r)
			if err != nil {
				return nil, err
			}
			if readable {
				names = append(names, name)
			}
		}
		if len(page) < pageSize {
			return names, nil
		}
	}
}

func (s *session) page(ctx context.Context, offset int) ([]resource, error) {
	const act = "list variables"
	got, err := s.do(ctx, request{
		act: act, path: []string{"resources", s.account, "variable"}, token: s.token,
		query: url.Values{"limit": {strconv.Itoa(pageSize)}, "offset": {strconv.Itoa(offset)}},
	})
	if err != nil {
		return nil, err
	}
	var page []resource
	if json.Unmarshal(got.body, &page) != nil {
		return nil, providers.Errorf(providers.Unavailable, "%s: the answer is not Conjur's JSON", act)
	}
	return page, nil
}

// findings is whether members of at least one of some roles may read, by these roles. It is safe for concurrent use.
type findings struct {
	mu  sync.Mutex
	all map[string]bool
}

// mayRead tells whether the caller may read a variable that it sees, because it has some right on it. If everyone with a
// right may read, it may; else Conjur is asked, once for all variables that the same roles may read.
func (s *session) mayRead(ctx context.Context, name string, r resource) (bool, error) {
	readers := []string{r.Owner}
	for _, p := range r.Permissions {
		if p.Privilege == "execute" {
			readers = append(readers, p.Role)
		}
	}
	if !slices.ContainsFunc(r.Permissions, func(p struct{ Privilege, Role string }) bool { return !slices.Contains(readers, p.Role) }) {
		return true, nil
	}
	slices.Sort(readers)
	key := strings.Join(slices.Compact(readers), "\n")
	s.may.mu.Lock()
	may, found := s.may.all[key]
	s.may.mu.Unlock()
	if found {
		return may, nil
	}
	_, err := s.do(ctx, request{
		act: "ask whether " + name + " may be read", path: []string{"resources", s.account, "variable", name}, token: s.token,
		query: url.Values{"check": {"true"}, "privilege": {"execute"}},
	})
	if err != nil && providers.KindOf(err) != providers.NotFound { // which is Conjur's no
		return false, err
	}
	s.may.mu.Lock()
	defer s.may.mu.Unlock()
	if s.may.all == nil {
		s.may.all = map[string]bool{}
	}
	s.may.all[key] = err == nil
	return err == nil, nil
}
