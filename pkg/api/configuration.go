package api

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/watch"
)

// Metadata of configuration items.
const (
	itemEncoding = "keywell-encoding" // "json": the value is an object of all fields
	itemDeleted  = "keywell-deleted"  // "true": the secret is gone
	itemStale    = "keywell-stale"    // "true": the store fails, and this is its last good content
)

// item is a secret as an item of Dapr's configuration API. The JSON form is Dapr's.
type item struct {
	Value    string            `json:"value,omitempty"`
	Version  string            `json:"version,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

// selection is a request for secrets as configuration items.
type selection struct {
	query
	keys []string // secret names; empty: all that the caller may read
}

// newSelection returns the selection of keys, sorted and each once. The error is a *fault.
func newSelection(q query, keys []string) (selection, error) {
	q.keyBytes = len(strings.Join(keys, ""))
	keys = slices.Compact(slices.Sorted(slices.Values(keys)))
	if len(keys) > 0 && keys[0] == "" {
		return selection{}, newFault(badWatch, reasonBadRequest, "a key is empty")
	}
	return selection{q, keys}, nil
}

// itemOf returns a secret as an item: the value of its only field, or else a JSON object of all fields. The error is
// that of reveal.
func itemOf(r resolve.Result) (item, error) {
	fields, err := reveal(nil, r.Fields)
	if err != nil {
		return item{}, err
	}
	it := item{Version: cmp.Or(r.Version, hex.EncodeToString(r.Digest[:]))}
	if !printable(it.Version) {
		it.Version = hex.EncodeToString(r.Digest[:])
	}
	if len(fields) == 1 {
		it.Value = string(fields[0].text)
	} else {
		it.Value = string(appendJSONFields(nil, fields))
		it.set(itemEncoding, "json")
	}
	if r.Stale {
		it.set(itemStale, "true")
	}
	return it, nil
}

func (it *item) set(key, value string) {
	if it.Metadata == nil {
		it.Metadata = map[string]string{}
	}
	it.Metadata[key] = value
}

// known is what the caller has of secrets, by name.
type known map[string]resolve.Digest

// configuration returns the items that s asks for. A secret that does not exist is left out. In a request for all, so is
// one that can't be read, unless none can. The error is a *fault.
func (c *core) configuration(ctx context.Context, id scope.Identity, s selection) (map[string]item, known, error) {
	policy := c.policy.Policy()
	store, err := c.openStore(ctx, policy, id, s.query)
	if err != nil {
		return nil, nil, err
	}
	granted, err := c.grantSelection(ctx, policy, id, store, s)
	if err != nil {
		return nil, nil, err
	}
	_, rest := s.selectors(store.Selectors)
	reads, err := c.readAll(ctx, granted, resolve.Request{Metadata: rest, Tokens: c.tokens(id), Fresh: s.fresh, Origin: origin}, false)
	if err != nil {
		return nil, nil, err
	}
	items, have := make(map[string]item, len(reads)), make(known, len(reads))
	var failed error
	for i, r := range reads {
		name := granted[i].Ref().Name
		it, err := itemOfRead(store, r)
		switch {
		case err == nil:
			items[name], have[name] = it, r.Digest
		case errors.Is(err, resolve.ErrStoreClosed): // since it was looked up
			return nil, nil, c.missingStore(policy, id, s.store)
		case providers.KindOf(err) == providers.NotFound:
		default:
			failed = cmp.Or(failed, error(getFault(s.store, name, err)))
		}
	}
	if failed != nil && (len(s.keys) > 0 || len(items) == 0) {
		return nil, nil, failed
	}
	return items, have, nil
}

// itemOfRead returns the item for the outcome of reading a secret.
func itemOfRead(store Store, r read) (item, error) {
	kind := providers.KindOf(r.err)
	switch {
	case r.err == nil:
		return itemOf(r.Result)
	case store.MissingIsEmpty && (kind == providers.NotFound || kind == providers.Denied):
		return item{}, nil
	default:
		return item{}, r.err
	}
}

// grantSelection returns a Grant for every secret that s asks for. The error is a *fault.
func (c *core) grantSelection(ctx context.Context, policy *scope.Policy, id scope.Identity, store Store, s selection) ([]scope.Grant, error) {
	ref, rest := s.selectors(store.Selectors)
	if len(s.keys) == 0 {
		list, err := policy.AuthorizeList(id, scope.Ref{Store: ref.Store, Namespace: ref.Namespace})
		if err != nil {
			return nil, c.refuse(ctx, policy, id, ref, err)
		}
		listing, err := c.resolver.List(ctx, resolve.Request{Grant: list, Metadata: rest, Tokens: c.tokens(id), Fresh: s.fresh, Origin: origin})
		switch {
		case errors.Is(err, resolve.ErrStoreClosed): // since it was looked up
			return nil, c.missingStore(policy, id, s.store)
		case err != nil:
			return nil, bulkFault(s.store, "", err)
		}
		return grants(policy, id, ref, listing.Names), nil
	}
	granted := make([]scope.Grant, 0, len(s.keys))
	for _, ref.Name = range s.keys {
		grant, err := policy.Authorize(id, ref)
		if err != nil {
			return nil, c.refuse(ctx, policy, id, ref, err)
		}
		granted = append(granted, grant)
	}
	return granted, nil
}

// changes is a subscription to configuration items.
type changes struct {
	*watch.Subscription
	store Store
	have  known
}

// subscribeItems returns a subscription to the items that s asks for: to whatever differs from what they are now. The
// error is a *fault.
func (c *core) subscribeItems(ctx context.Context, id scope.Identity, s selection) (*changes, error) {
	_, have, err := c.configuration(ctx, id, s)
	if err != nil {
		return nil, err
	}
	store, _ := c.stores.Store(c.policy.Policy().Key(id, s.store))
	ref, rest := s.selectors(store.Selectors)
	refs := make([]scope.Ref, 0, max(1, len(s.keys)))
	for _, ref.Name = range s.keys {
		refs = append(refs, ref)
	}
	if len(s.keys) == 0 {
		ref.Name = ""
		refs = append(refs, ref)
	}
	sub, err := c.watches.Subscribe(ctx, id, refs, rest)
	if err != nil {
		return nil, c.watchFault(ctx, id, err)
	}
	return &changes{sub, store, have}, nil
}

// items returns what the caller has to be told of updates: content that it does not have, and secrets that are gone. What
// else can happen to a store has no form in this API, and is only logged.
func (c *core) items(ctx context.Context, ch *changes, updates []watch.Update) map[string]item {
	items := map[string]item{}
	for _, u := range updates {
		name := u.Ref.Name
		have, told := ch.have[name]
		switch {
		case u.Err != nil && providers.KindOf(u.Err) == providers.NotFound && !ch.store.MissingIsEmpty:
			if told {
				delete(ch.have, name)
				items[name] = item{Metadata: map[string]string{itemDeleted: "true"}}
			}
		case u.Err != nil:
			c.unsent(ctx, u.Ref, u.Err)
		case u.Result != nil && (!told || have != u.Digest):
			it, err := itemOf(*u.Result)
			if err != nil {
				c.unsent(ctx, u.Ref, err)
				continue
			}
			ch.have[name], items[name] = u.Digest, it
		}
	}
	return items
}

// unsent logs why a subscription is not told something.
func (c *core) unsent(ctx context.Context, ref scope.Ref, err error) {
	c.logger.LogAttrs(ctx, slog.LevelDebug, "subscription not told",
		slog.String("store", ref.Store), slog.String("secret", ref.Name), slog.Any("err", err))
}

// unsubscribe ends a subscription of the caller and returns why it could not, in Dapr's words.
func (c *core) unsubscribe(id scope.Identity, subscription string) (failure string) {
	if c.streams.close(streamKey{id, subscription}) {
		return ""
	}
	return fmt.Sprintf("failed to unsubscribe to configuration request %s: subscription does not exist", subscription)
}

// configurationFault returns a failure in the words that the configuration API has for it.
func configurationFault(err error, row situation, s selection) error {
	f := asFault(err)
	g := *f
	switch f.situation {
	case noStores:
		g.situation, g.message = noConfigurations, noConfigurations.format
	case storeNotFound:
		g.situation, g.message = configurationNotFound, fmt.Sprintf(configurationNotFound.format, s.store)
	case getFailed, bulkFailed:
		_, text := reasonOf(f.cause)
		g.situation, g.message = row, fmt.Sprintf(row.format, fmt.Sprint(s.keys), s.store, text)
	}
	return &g
}
