package volume

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/secret"
)

// held is what a store issued for a source. It is kept in the record so that another process need not have it issued
// again: the content is in the volume's files, and nothing here is secret.
type held struct {
	Source   int              `json:"source"`          // which of Spec.Sources
	Lease    *providers.Lease `json:"lease,omitempty"` // nil: a certificate
	Issued   time.Time        `json:"issued"`          // or confirmed last
	NotAfter time.Time        `json:"notAfter"`
	Fields   []string         `json:"fields"` // the names of all of them, sorted

	request resolve.Request // that was answered with it
}

// heldOf returns what was issued among results, which are those of requests.
func heldOf(requests []resolve.Request, results []*resolve.Result) []held {
	var all []held
	for i, r := range results {
		if r != nil && r.Issued {
			all = append(all, held{
				Source: i, Lease: r.Lease, Issued: r.FetchedAt, NotAfter: r.NotAfter,
				Fields: slices.Sorted(maps.Keys(r.Fields)), request: requests[i],
			})
		}
	}
	return all
}

func requestsOf(all []held) []resolve.Request {
	requests := make([]resolve.Request, len(all))
	for i, h := range all {
		requests[i] = h.request
	}
	return requests
}

// same tells whether h and other are one thing, of which the store has said the same since.
func (h held) same(other held) bool {
	same := h.Source == other.Source && h.NotAfter.Equal(other.NotAfter) && (h.Lease == nil) == (other.Lease == nil)
	if same && h.Lease != nil {
		same = h.Lease.ID == other.Lease.ID && h.Lease.Alone.Equal(other.Lease.Alone)
	}
	return same
}

// hold notes in the volume, and in its record if that says something else, what was issued for it.
func (s *Set) hold(v *volume, now []held) error {
	r := v.record
	r.Held = now
	if !slices.EqualFunc(v.record.Held, now, held.same) {
		if err := s.records.save(r); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v.record, v.leases, v.unadopted = r, requestsOf(now), false
	return nil
}

// adoptLeases tells what an earlier process had issued for the volume, with its content from the files. What does not live
// any more, or can't be had from the files, is issued again by the read that follows. What is there in part will do for
// this volume, which is then alone with it. An error says that the store can't tell: then the files stay as they are.
func (s *Set) adoptLeases(ctx context.Context, v *volume, rd reading) error {
	s.mu.Lock()
	unadopted := v.unadopted
	s.mu.Unlock()
	if !unadopted || s.opts.Leases == nil {
		return nil
	}
	files, sources := s.filesOf(v), rd.spec.Sources()
	for _, h := range v.record.Held {
		if h.Source < 0 || h.Source >= len(sources) {
			continue
		}
		source, it := sources[h.Source], rd.spec.itemOf(h.Source)
		p := providers.Payload{Fields: it.fieldsFrom(files, h.Fields), Lease: h.Lease, NotAfter: h.NotAfter, Issued: true}
		grant, err := s.opts.Authorizer.Authorize(rd.record.Identity, source.Ref)
		if err != nil || p.Fields == nil {
			continue // the read that follows says the same
		}
		if len(p.Fields) < len(h.Fields) {
			if v.parts == nil {
				v.parts = map[int]bool{}
			}
			v.parts[h.Source] = true
			rd.parts = v.parts
		}
		err = s.opts.Leases.Adopt(ctx, rd.request(h.Source, source, grant), p, h.Issued)
		switch providers.KindOf(err) {
		case providers.NotFound, providers.Denied, providers.Invalid:
			if errors.Is(err, providers.ErrNoTokens) {
				return err
			}
			s.log(slog.LevelInfo, "not adopted, so it is issued again", &v.record, slog.String("secret", source.Ref.Name), slog.Any("err", err))
		default:
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// filesOf returns the files of a volume, path → content; nothing if they can't be read.
func (s *Set) filesOf(v *volume) map[string]secret.Value {
	dir, info, err := s.opts.Mounter.Open(v.record.Target)
	if err != nil {
		return nil
	}
	defer dir.Close()
	root, err := dir.Root()
	if err != nil || info.Device != v.record.Device || v.tree.data == "" {
		return nil
	}
	defer root.Close()
	files, err := readFiles(root, v.tree.data, v.spec.owner())
	if err != nil {
		return nil
	}
	all := make(map[string]secret.Value, len(files))
	for _, f := range files {
		all[f.Path] = f.Data
	}
	return all
}

// itemOf returns the item that a source belongs to.
func (s Spec) itemOf(source int) Item {
	for _, it := range s.Items {
		if n := it.count(); source >= n {
			source -= n
			continue
		}
		return it
	}
	return Item{}
}

// fieldsFrom takes the fields of a secret, of which all the names are given, out of the files that were made of it: those
// that the item wants. Nil: they are not there as they were.
func (it Item) fieldsFrom(files map[string]secret.Value, names []string) map[string]secret.Value {
	wanted := it.Fields
	if len(wanted) == 0 {
		for _, name := range names {
			wanted = append(wanted, Field{Name: name})
		}
	}
	if it.Template != nil || it.Format != FormatFiles || it.Encoding != "" {
		return nil
	}
	fields := make(map[string]secret.Value, len(names))
	for _, f := range wanted {
		data, found := files[it.fieldPath(f, len(wanted))]
		switch {
		case found && f.Encoding == "":
			fields[f.Name] = data
		case found || slices.Contains(names, f.Name): // the rest did not exist, and was optional
			return nil
		}
	}
	return fields
}

// abandoned returns the reads of a volume that is gone of which no other volume has, or is about to get, what was issued.
// The caller holds s.mu.
func (s *Set) abandoned(gone *volume) []resolve.Request {
	if s.opts.Leases == nil {
		return nil
	}
	return slices.DeleteFunc(gone.leases, func(req resolve.Request) bool {
		for _, v := range s.volumes {
			if v == gone {
				continue
			}
			if v.published && slices.ContainsFunc(v.record.Held, func(h held) bool { return gone.holdsLease(req, h.Lease) }) {
				return true
			}
			if v.published && !v.unadopted {
				if slices.ContainsFunc(v.leases, func(other resolve.Request) bool { return s.opts.Leases.Shared(req, other) }) {
					return true
				}
				continue
			}
			if slices.ContainsFunc(v.spec.Sources(), func(other Source) bool { return other.Ref == req.Grant.Ref() }) {
				return true
			}
		}
		return false
	})
}

// holdsLease tells whether what v got by a read has that lease.
func (v *volume) holdsLease(req resolve.Request, lease *providers.Lease) bool {
	return lease != nil && slices.ContainsFunc(v.record.Held, func(h held) bool {
		return h.Lease != nil && h.Lease.ID == lease.ID && h.request.Grant == req.Grant && h.request.Own == req.Own
	})
}
