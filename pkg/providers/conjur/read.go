package conjur

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/gather"
	"github.com/keywell/keywell/pkg/secret"
)

const (
	batchLimit = 100     // variables in one call
	queryLimit = 8 << 10 // bytes of a query, which Conjur's web server takes (Puma: 10 KiB)
)

// read reads one version of a variable; the empty one is the latest.
func (s *session) read(ctx context.Context, name, version string) (secret.Value, error) {
	r := request{act: "read " + name, path: []string{"secrets", s.account, "variable", name}, token: s.token}
	if version != "" {
		r.query = url.Values{"version": {version}}
		r.act += ", version " + version
	}
	got, err := s.do(ctx, r)
	if err != nil {
		return secret.Value{}, err
	}
	return secret.New(got.body), nil
}

// readAll reads the latest versions of names, in as few calls as can be. One name that is missing or denied spoils a batch:
// then each is read by itself, and that one from then on.
func (s *session) readAll(ctx context.Context, all []string) (map[string]gather.Result[secret.Value], error) {
	one := func(ctx context.Context, name string) (secret.Value, error) { return s.read(ctx, name, "") }
	results := make(map[string]gather.Result[secret.Value], len(all))
	alone := slices.DeleteFunc(slices.Clone(all), func(name string) bool { return !s.standsAlone(name) })
	together := slices.DeleteFunc(slices.Clone(all), s.standsAlone)
	for _, batch := range s.batches(together) {
		if len(batch) == 1 {
			alone = append(alone, batch...)
			continue
		}
		values, err := s.readBatch(ctx, batch)
		switch providers.KindOf(err) {
		case providers.NotFound, providers.Denied, providers.Invalid:
			if refusedToken(err) {
				return nil, err
			}
			alone = append(alone, batch...)
		default:
			for _, name := range batch {
				results[name] = gather.Result[secret.Value]{Value: values[name], Err: err}
			}
		}
	}
	for name, r := range gather.Each(ctx, alone, one) {
		results[name] = r
		if kind := providers.KindOf(r.Err); r.Err == nil {
			s.apart.remove(name)
		} else if kind == providers.NotFound || kind == providers.Denied {
			s.apart.add(name)
		}
	}
	return results, nil
}

// standsAlone tells whether name can't be in a batch: its names have commas between them.
func (s *session) standsAlone(name string) bool {
	return strings.Contains(name, ",") || s.apart.has(name)
}

// batches puts together what fits into a query.
func (s *session) batches(names []string) (all [][]string) {
	length := 0
	for _, name := range names {
		n := len(url.QueryEscape(s.id(name))) + len("%2C")
		if length += n; len(all) == 0 || length > queryLimit {
			all, length = append(all, nil), n
		}
		all[len(all)-1] = append(all[len(all)-1], name)
	}
	return all
}

// id is how Conjur calls a variable where it does not only speak of variables of one account.
func (s *session) id(name string) string { return s.account + ":variable:" + name }

// readBatch reads variables in one call: all of them, or none. Values come in base64, because JSON has no bytes.
func (s *session) readBatch(ctx context.Context, names []string) (map[string]secret.Value, error) {
	ids := make([]string, len(names))
	for i, name := range names {
		ids[i] = s.id(name)
	}
	const act = "read a batch of variables"
	got, err := s.do(ctx, request{act: act, path: []string{"secrets"}, query: url.Values{"variable_ids": {strings.Join(ids, ",")}}, token: s.token, base64: true})
	if err != nil {
		return nil, err
	}
	var texts map[string]string
	if json.Unmarshal(got.body, &texts) != nil {
		return nil, providers.Errorf(providers.Unavailable, "%s: the answer is not Conjur's JSON", act)
	}
	encoded := got.header.Get("Content-Encoding") == "base64" // not by versions before 1.10
	values := make(map[string]secret.Value, len(names))
	for i, name := range names {
		text, found := texts[ids[i]]
		value := []byte(text)
		if encoded {
			value, err = base64.StdEncoding.DecodeString(text)
		}
		if err != nil || !found {
			return nil, providers.Errorf(providers.Unavailable, "%s: the answer is malformed", act)
		}
		values[name] = secret.New(value)
	}
	return values, nil
}

// names is a set of names. It is safe for concurrent use.
type names struct {
	mu  sync.Mutex
	set map[string]struct{}
}

const mostNames = 1000 // then it begins anew: readers choose names

func (n *names) add(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.set == nil || len(n.set) >= mostNames {
		n.set = map[string]struct{}{}
	}
	n.set[name] = struct{}{}
}

func (n *names) remove(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.set, name)
}

func (n *names) has(name string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, found := n.set[name]
	return found
}
