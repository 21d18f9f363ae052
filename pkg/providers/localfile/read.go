package localfile

import (
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/keywell/keywell/pkg/providers"
)

// maxFile is the largest secrets file that is read, in bytes.
const maxFile = 16 << 20

// settleTime is how long a file must have been left alone before its modification time proves that it did not change
// since. It covers the coarsest clock of common file systems.
const settleTime = 2 * time.Second

// snapshot is the outcome of one look at the file.
type snapshot struct {
	secrets content
	file    fs.FileInfo // of the file that was read; nil: there was none
	settled bool        // an equal FileInfo proves that a read would have the same outcome
	err     error       // why secrets is older than file: a problem with the file
}

// refresh returns what the file holds now, or what it held last if it can't be used now.
func (s *store) refresh() content {
	info, _ := os.Stat(s.path)
	if secrets, ok := s.unchanged(info); ok {
		return secrets
	}
	ticket := s.begin()
	return s.adopt(ticket, s.read())
}

// unchanged returns the current content if info proves that the file is still the one that it came from.
func (s *store) unchanged(info fs.FileInfo) (content, bool) {
	c := &s.current
	c.Lock()
	defer c.Unlock()
	switch {
	case info == nil || c.file == nil:
		return c.secrets, info == nil && c.file == nil
	default:
		same := os.SameFile(info, c.file) && info.Size() == c.file.Size() && info.ModTime().Equal(c.file.ModTime())
		return c.secrets, same && c.settled
	}
}

// begin numbers a read of the file that is about to begin.
func (s *store) begin() (ticket uint64) {
	c := &s.current
	c.Lock()
	defer c.Unlock()
	c.started++
	return c.started
}

// adopt makes next current, unless a read that began later is already, and returns the current content. A read that
// did not succeed leaves the content and is logged, once as long as the problem stays the same.
func (s *store) adopt(ticket uint64, next snapshot) content {
	secrets, before, adopted := s.replace(ticket, next)
	switch {
	case !adopted:
	case next.err != nil && (before == nil || next.err.Error() != before.Error()):
		s.log.Warn("secrets file is unusable, its last good content stays in force", "err", next.err)
	case next.err == nil && before != nil:
		s.log.Info("secrets file is usable again")
	}
	return secrets
}

// replace is adopt without the log. It returns the problem that the snapshot before next had.
func (s *store) replace(ticket uint64, next snapshot) (secrets content, before error, adopted bool) {
	c := &s.current
	c.Lock()
	defer c.Unlock()
	if ticket < c.adopted {
		return c.secrets, nil, false
	}
	if next.err != nil {
		next.secrets = c.secrets
	}
	before = c.err
	c.snapshot, c.adopted = next, ticket
	return c.secrets, before, true
}

// read reads and parses the file.
func (s *store) read() snapshot {
	info, err := os.Stat(s.path)
	if err != nil {
		return snapshot{err: providers.Errorf(providers.Unavailable, "secrets file: %w", err)}
	}
	data, err := readFile(s.path, info)
	if err != nil {
		return snapshot{file: info, err: err}
	}
	next := snapshot{file: info, settled: time.Since(info.ModTime()).Abs() > settleTime}
	next.secrets, err = parse(data, s.layout)
	if err != nil {
		next.err = providers.Errorf(providers.Invalid, "secrets file %q: %w", s.path, err)
	}
	return next
}

// readFile reads the file that info describes. It refuses what is not a regular file, because a read of a pipe can wait
// without end.
func readFile(path string, info fs.FileInfo) ([]byte, error) {
	if !info.Mode().IsRegular() {
		return nil, providers.Errorf(providers.Invalid, "secrets file %q is not a regular file", path)
	}
	tooLarge := providers.Errorf(providers.Invalid, "secrets file %q is larger than %d MiB", path, maxFile>>20)
	if info.Size() > maxFile {
		return nil, tooLarge
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, providers.Errorf(providers.Unavailable, "secrets file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, providers.Errorf(providers.Unavailable, "secrets file: %w", err)
	}
	if len(data) > maxFile {
		return nil, tooLarge
	}
	return data, nil
}
