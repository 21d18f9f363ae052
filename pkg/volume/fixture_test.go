package volume_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/volume"
	"github.com/keywell/keywell/pkg/volume/mount"
)

func modeOf(octal string) fs.FileMode {
	n, err := strconv.ParseUint(octal, 8, 32)
	if err != nil {
		panic(err)
	}
	return fs.FileMode(n)
}

// store is a Resolver in memory.
type store struct {
	mu      sync.Mutex
	secrets map[string]fields // name → fields; missing: NotFound
	errs    map[string]error  // name → what reading it fails with
	stale   bool
	atHand  bool // Cached has what Resolve has
	reads   []resolve.Request
	result  resolve.Result // what else answers hold
	age     time.Duration  // of answers

	intervals map[string]time.Duration // name → RefreshInterval of its answers, if not that of result

	hang    chan struct{} // not nil: reads wait for it, or for their context
	entered chan string   // not nil: told of each read that hangs
}

func (s *store) set(name string, f fields) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.secrets == nil {
		s.secrets = map[string]fields{}
	}
	s.secrets[name] = f
}

func (s *store) fail(name string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.errs == nil {
		s.errs = map[string]error{}
	}
	s.errs[name] = err
}

func (s *store) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.reads)
}

func (s *store) Cached(ctx context.Context, req resolve.Request) (resolve.Result, bool) {
	if !s.atHand {
		return resolve.Result{}, false
	}
	r, err := s.Resolve(ctx, req)
	return r, err == nil
}

func (s *store) Resolve(ctx context.Context, req resolve.Request) (resolve.Result, error) {
	if !req.Grant.Reads() {
		return resolve.Result{}, resolve.ErrNotGranted
	}
	name := req.Grant.Ref().Name
	if s.hang != nil {
		s.entered <- name
		select {
		case <-s.hang:
		case <-ctx.Done():
			return resolve.Result{}, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads = append(s.reads, req)
	if err := s.errs[name]; err != nil {
		return resolve.Result{}, err
	}
	f, ok := s.secrets[name]
	if !ok {
		return resolve.Result{}, &providers.Error{Store: req.Grant.Ref().Store, Name: name, Kind: providers.NotFound, Err: errors.New("no such secret")}
	}
	r := s.result
	r.Payload.Fields = f.payload().Fields
	if interval, ok := s.intervals[name]; ok {
		r.RefreshInterval = interval
	}
	r.Stale, r.FetchedAt = s.stale, time.Now().Add(-s.age)
	return r, nil
}

// directories is a Mounter for processes that may not mount. A "mount" is a directory that is moved to the target.
type directories struct {
	base    string
	mu      sync.Mutex
	last    uint64
	mounted map[string]uint64 // target → device
	options mount.Options     // of the last mount
}

func (d *directories) Prepare(target string) (mount.Place, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, taken := d.mounted[target]; taken {
		return nil, mount.ErrOccupied
	}
	return place{d, target}, nil
}

// place is where a directory is moved to.
type place struct {
	*directories
	target string
}

func (p place) Mount(opts mount.Options, fill func(dir mount.Dir, device uint64) error) error {
	p.mu.Lock()
	p.last++
	p.options = opts
	device := p.last
	p.mu.Unlock()
	detached := filepath.Join(p.base, fmt.Sprint("detached", device))
	if err := os.Mkdir(detached, 0o755); err != nil {
		return err
	}
	dir, err := mount.OpenDir(detached)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := fill(dir, device); err != nil {
		return errors.Join(err, os.RemoveAll(detached))
	}
	if err := os.Rename(detached, p.target); err != nil {
		return errors.Join(err, os.RemoveAll(detached))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mounted[p.target] = device
	return nil
}

func (place) Close() error { return nil }

func (d *directories) Open(target string) (mount.Dir, mount.Info, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	device, ok := d.mounted[target]
	if !ok {
		return mount.Dir{}, mount.Info{}, mount.ErrNotMounted
	}
	dir, err := mount.OpenDir(target)
	return dir, mount.Info{Device: device, UsedBytes: 1, TotalBytes: 2, UsedInodes: 3, TotalInodes: 4}, err
}

func (d *directories) Unmount(target string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.mounted, target)
	return os.RemoveAll(target)
}

// replace puts another mount on target, as if somebody else had.
func (d *directories) replace(target string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last++
	d.mounted[target] = d.last
}

// node is a Set with everything around it.
type node struct {
	*volume.Set
	store    *store
	policy   *scope.Live
	mounter  *directories // nil on a real one
	dir      string       // where targets are
	stateDir string
	opts     volume.Options

	mu     sync.Mutex
	denied []volume.Denial
	due    map[string]time.Time // volume ID → as Published said; removed by Unpublished
	at     func(step string)    // called at each step; nil: nothing
}

// newNode returns a node with directories for mounts.
func newNode(t *testing.T, change ...func(*volume.Options)) *node {
	t.Helper()
	dir := t.TempDir()
	n := &node{mounter: &directories{base: t.TempDir(), mounted: map[string]uint64{}}, dir: dir, stateDir: t.TempDir()}
	n.start(t, n.mounter, change...)
	return n
}

// newTmpfsNode returns a node with real mounts, which end with the test.
func newTmpfsNode(t testing.TB, change ...func(*volume.Options)) *node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	unmountAtEnd(t, dir)
	return openTmpfsNode(t, dir, t.TempDir(), change...)
}

// openTmpfsNode returns a node with the directories of another.
func openTmpfsNode(t testing.TB, dir, stateDir string, change ...func(*volume.Options)) *node {
	t.Helper()
	m, err := mount.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{dir: dir, stateDir: stateDir}
	n.start(t, m, change...)
	return n
}

func unmountAtEnd(t testing.TB, dir string) {
	t.Cleanup(func() {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Error(err)
		}
		for _, e := range entries {
			for unix.Unmount(filepath.Join(dir, e.Name()), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
			}
		}
	})
}

func (n *node) start(t testing.TB, m volume.Mounter, change ...func(*volume.Options)) {
	t.Helper()
	n.store, n.policy, n.due = &store{}, &scope.Live{}, map[string]time.Time{}
	n.allow(t)
	n.opts = volume.Options{
		Authorizer: n.policy, Resolver: n.store, Mounter: m, StateDir: n.stateDir,
		Denied: func(_ context.Context, d volume.Denial) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.denied = append(n.denied, d)
		},
		Published: func(id string, due time.Time) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.due[id] = due
		},
		Unpublished: func(id string) {
			n.mu.Lock()
			defer n.mu.Unlock()
			delete(n.due, id)
		},
		Checkpoint: func(step string) {
			n.mu.Lock()
			at := n.at
			n.mu.Unlock()
			if at != nil {
				at(step)
			}
		},
	}
	for _, f := range change {
		f(&n.opts)
	}
	n.restart(t)
}

// restart forgets the Set, as the end of a process does, and makes another.
func (n *node) restart(t testing.TB) {
	t.Helper()
	set, err := volume.New(n.opts)
	if err != nil {
		t.Fatal(err)
	}
	n.Set = set
}

// allow puts a policy in force under which store "s" is open, except for the names in deny.
func (n *node) allow(t testing.TB, deny ...string) {
	t.Helper()
	rules := scope.Rules{Stores: []scope.Store{{Name: "s", Source: "store.yaml:1"}}}
	if len(deny) > 0 {
		rules.Scopes = []scope.StoreScope{{Store: "s", Denied: deny, Source: "config.yaml:7"}}
	}
	p, err := scope.NewPolicy(rules)
	if err != nil {
		t.Fatal(err)
	}
	n.policy.Set(p)
}

func (n *node) target(name string) string { return filepath.Join(n.dir, name) }

// request asks for a volume with secrets, in ParseSpec's form, at a target named as its ID.
func (n *node) request(id, secrets string) volume.Request {
	return volume.Request{
		VolumeID: id, TargetPath: n.target(id), Identity: scope.Identity{Namespace: "ns", Pod: "p"},
		Attributes: map[string]string{"store": "s", "secrets": secrets},
	}
}

// files reads everything that is visible in a volume: path → content.
func (n *node) files(t testing.TB, id string) map[string]string {
	t.Helper()
	got := map[string]string{}
	var walk func(dir string)
	walk = func(dir string) {
		entries, err := os.ReadDir(filepath.Join(n.target(id), dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			name := filepath.Join(dir, e.Name())
			if name[0] == '.' {
				continue
			}
			info, err := os.Stat(filepath.Join(n.target(id), name))
			if err != nil {
				t.Fatal(err)
			}
			if info.IsDir() {
				walk(name)
				continue
			}
			b, err := os.ReadFile(filepath.Join(n.target(id), name))
			if err != nil {
				t.Fatal(err)
			}
			got[name] = string(b)
		}
	}
	walk("")
	return got
}

// leftovers returns the names in a volume that begin with "..", besides ..data and the generation it leads to.
func (n *node) leftovers(t testing.TB, id string) (names []string) {
	t.Helper()
	data, err := os.Readlink(filepath.Join(n.target(id), "..data"))
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(n.target(id))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if name := e.Name(); name[:min(2, len(name))] == ".." && name != "..data" && name != data {
			names = append(names, name)
		}
	}
	return names
}

// absent checks that nothing of a volume is left.
func (n *node) absent(t testing.TB, id string) {
	t.Helper()
	if _, err := os.Lstat(n.target(id)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the target of %s is left: %v", id, err)
	}
	if got := n.records(t); len(got) > 0 {
		t.Errorf("records are left: %v", got)
	}
	if n.mounter != nil {
		if left, err := os.ReadDir(n.mounter.base); err != nil || len(left) > 0 {
			t.Errorf("detached directories are left: %v, %v", left, err)
		}
	}
}

// journal returns the path of the file with the records.
func (n *node) journal() string { return filepath.Join(n.stateDir, "records") }

// records returns the newest record of each volume of which something may be left, with the verb of its last line.
func (n *node) records(t testing.TB) map[string]string {
	t.Helper()
	text, err := os.ReadFile(n.journal())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	data, verbs := map[string]string{}, map[string]string{}
	for line := range strings.Lines(string(text)) {
		verb, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		id, record, _ := strings.Cut(rest, " ")
		if record != "" {
			data[id] = record
		}
		verbs[id] = verb
	}
	records := map[string]string{}
	for quoted, verb := range verbs {
		id, err := strconv.Unquote(quoted)
		if err != nil {
			t.Error(err)
		}
		if verb != "removed" {
			records[id] = verb + " " + data[quoted]
		}
	}
	return records
}
