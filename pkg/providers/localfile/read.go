package localfile

import (
	"context"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keywell/keywell/pkg/providers"
)

// maxFile is the largest secrets file that is read, in bytes.
const maxFile = 16 << 20

// settleTime is how long a file must have been left alone before its modification time proves that it did not change
// since: some ticks of the clock that Linux stamps files with.
const settleTime = 100 * time.Millisecond

// snapshot is the outcome of one look at the file.
type snapshot struct {
	secrets content
	file    fs.FileInfo // of the file that was read; nil: there was none
	settled bool        // an equal FileInfo proves that a read would have the same outcome
	err     error       // why secrets is older than file: a problem with the file
}

// refresh returns what the file holds now, or what it held last if it can't be used now. Reads are one at a time, so
// that content never goes back to an older state. The error is that of ctx.
func (s *store) refresh(ctx context.Context) (content, error) {
	if secrets, ok := s.unchanged(); ok {
		return secrets, nil
	}
	select {
	case s.reading <- struct{}{}:
		defer func() { <-s.reading }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if secrets, ok := s.unchanged(); ok { // another call read it meanwhile
		return secrets, nil
	}
	return s.adopt(s.read()), nil
}

// unchanged returns the current content if the file is provably still the one that it came from.
func (s *store) unchanged() (content, bool) {
	info, _ := os.Stat(s.path)
	current := s.held()
	if info == nil || current.file == nil {
		return current.secrets, info == nil && current.file == nil
	}
	was := current.file
	same := os.SameFile(info, was) && info.Size() == was.Size() && info.ModTime().Equal(was.ModTime())
	return current.secrets, same && current.settled
}

// held returns the snapshot in force.
func (s *store) held() snapshot {
	c := &s.current
	c.Lock()
	defer c.Unlock()
	return c.snapshot
}

// adopt puts next in force and returns its content. A read that did not succeed leaves the content and is logged, once
// as long as the problem stays the same. The caller is the one that reads.
func (s *store) adopt(next snapshot) content {
	last := s.held()
	switch {
	case next.err == nil && last.err != nil:
		s.log.Info("secrets file is usable again")
	case next.err != nil && (last.err == nil || next.err.Error() != last.err.Error()):
		s.log.Warn("secrets file is unusable, its last good content stays in force", "err", next.err)
	}
	if next.err != nil {
		next.secrets = last.secrets
	}
	c := &s.current
	c.Lock()
	defer c.Unlock()
	c.snapshot = next
	return next.secrets
}

// read reads and parses the file.
func (s *store) read() snapshot {
	info, data, err := readFile(s.path)
	if err != nil {
		return snapshot{file: info, err: err}
	}
	next := snapshot{file: info, settled: time.Since(info.ModTime()).Abs() > settleTime}
	next.secrets, err = parse(data, s.layout)
	if err != nil {
		next.err = providers.Errorf(providers.Unavailable, "secrets file %q: %w", s.path, err)
	}
	return next
}

// readFile reads a file and returns what it is, which is nil if it can't be opened. It refuses what is not a regular file
// and does not wait for the writer of a pipe, which can be without end.
func readFile(path string) (fs.FileInfo, []byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, providers.Errorf(providers.Unavailable, "secrets file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, providers.Errorf(providers.Unavailable, "secrets file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return info, nil, providers.Errorf(providers.Invalid, "secrets file %q is not a regular file", path)
	}
	tooLarge := providers.Errorf(providers.Unavailable, "secrets file %q is larger than %d MiB", path, maxFile>>20)
	if info.Size() > maxFile {
		return info, nil, tooLarge
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return info, nil, providers.Errorf(providers.Unavailable, "secrets file: %w", err)
	}
	if len(data) > maxFile { // it has grown
		return info, nil, tooLarge
	}
	return info, data, nil
}
