package volume

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// journal is the file in which records are kept, and what became of their volumes, line by line:
//
//	begun "id" {…}      a volume is being published, and nothing of it is on the node yet
//	published "id"      it is
//	saved "id" {…}      the record of a published volume has changed
//	withdrawn "id"      the volume is being unpublished
//	removed "id"        nothing of it is left
//
// A line is added by one write. It does not sync: a record describes a mount, which does not outlive the kernel either.
// A line without an end was cut off with the process, and counts as not written. This is safe for all of them: begun,
// saved and withdrawn come before what they announce, and what published and removed confirm is found out again.
//
// When most of the file is history, and a little after a volume has gone, a new file replaces it by a rename. Operations on
// one volume ID take turns.
type journal struct {
	dir string

	mu      sync.Mutex
	file    *os.File // nil: not open yet
	size    int64    // of the whole lines in it, in bytes
	compact int64    // the size at which to replace it
	room    int64    // up to where the filesystem has promised room
	line    []byte   // the last one, whose memory the next uses
	tidying bool     // the file is to be replaced in a while
}

const (
	journalName = "records"
	newSuffix   = ".new" // being written, to replace the journal
	badSuffix   = ".bad" // lines that could not be read, for people to look at

	maxLine    = 16 << 10 // a longer line's memory is not kept, in bytes
	minCompact = 1 << 20  // a journal that is shorter is not worth replacing at once, in bytes
	// tidyAfter is how long the journal may remember a volume that is gone. Many go together.
	tidyAfter = 10 * time.Second
	// journalRoom is kept free behind the end, in bytes, so that the few words which end a volume can be written even when
	// the filesystem is full: 250 volumes need half of it.
	journalRoom = 64 << 10
)

// The verbs of a line.
const (
	verbBegun     = "begun"
	verbPublished = "published"
	verbSaved     = "saved"
	verbWithdrawn = "withdrawn"
	verbRemoved   = "removed"
)

// newJournal returns the journal in a directory, which it makes.
func newJournal(dir string) (*journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open records: %w", err)
	}
	return &journal{dir: dir}, nil
}

// begin writes the record of a volume that is being published. It may fail where the lines that follow can't.
func (j *journal) begin(r record) error { return j.addRecord(verbBegun, r) }

// save replaces the record of a published volume.
func (j *journal) save(r record) error { return j.addRecord(verbSaved, r) }

// commit says that a volume is published.
func (j *journal) commit(id string) error { return j.add(verbPublished, id, nil) }

// withdraw says that a volume is being unpublished.
func (j *journal) withdraw(id string) error { return j.add(verbWithdrawn, id, nil) }

// remove says that nothing is left of a volume, if there was a record of it.
func (j *journal) remove(id string) error { return j.add(verbRemoved, id, nil) }

func (j *journal) addRecord(verb string, r record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write record of volume %q: %w", r.ID, err)
	}
	return j.add(verb, r.ID, data)
}

func (j *journal) add(verb, id string, data []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.line = appendLine(j.line[:0], verb, id, data)
	err := j.open()
	if err == nil && data != nil {
		err = errors.Join(j.restore(), j.reserve(int64(len(j.line))))
	}
	if err == nil {
		err = j.write(j.line)
	}
	if cap(j.line) > maxLine {
		j.line = nil
	}
	if err != nil {
		return fmt.Errorf("write record of volume %q: %w", id, err)
	}
	switch {
	case j.size >= j.compact:
		j.tidy()
	case verb == verbRemoved && !j.tidying:
		j.tidying = true
		time.AfterFunc(tidyAfter, j.forget)
	}
	return nil
}

// forget drops the history, if the file is still the one that others would open.
func (j *journal) forget() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.tidying = false
	ours, err := j.file.Stat()
	if err != nil {
		return
	}
	if there, err := os.Lstat(j.path("")); err == nil && os.SameFile(ours, there) {
		j.tidy()
	}
}

// tidy replaces the file. One that can't be replaced now goes on as it is, and grows until it can.
func (j *journal) tidy() {
	if err := j.replace(); err != nil {
		j.compact = 2 * j.size
	}
}

// restore puts a file back that somebody has removed.
func (j *journal) restore() error {
	var st unix.Stat_t
	if err := unix.Fstat(int(j.file.Fd()), &st); err != nil || st.Nlink > 0 {
		return err
	}
	if err := os.MkdirAll(j.dir, 0o700); err != nil {
		return err
	}
	return j.replace()
}

func appendLine(line []byte, verb, id string, data []byte) []byte {
	line = append(line, verb...)
	line = append(line, ' ')
	line = strconv.AppendQuoteToASCII(line, id)
	if data != nil {
		line = append(line, ' ')
		line = append(line, data...) // JSON, which has no line feed
	}
	return append(line, '\n')
}

// write adds whole lines, or nothing.
func (j *journal) write(lines []byte) error {
	fd := int(j.file.Fd())
	for done := 0; done < len(lines); {
		n, err := unix.Pwrite(fd, lines[done:], j.size+int64(done))
		if err != nil {
			return errors.Join(err, unix.Ftruncate(fd, j.size))
		}
		done += n
	}
	j.size += int64(len(lines))
	return nil
}

// reserve makes sure that there is room for a record of n bytes, and behind it. Not all filesystems can promise that.
func (j *journal) reserve(n int64) error {
	if j.size+n+journalRoom/2 <= j.room {
		return nil
	}
	room := j.size + n + journalRoom
	err := unix.Fallocate(int(j.file.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, room)
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	j.room = room
	return nil
}

// open opens the file, unless it is open, and cuts off what is no whole line.
func (j *journal) open() error {
	if j.file != nil {
		return nil
	}
	f, err := os.OpenFile(j.path(""), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	data, err := io.ReadAll(f)
	whole := int64(bytes.LastIndexByte(data, '\n') + 1)
	if err == nil && whole < int64(len(data)) {
		err = f.Truncate(whole)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	j.file, j.size, j.room, j.compact = f, whole, 0, max(minCompact, 2*whole)
	return nil
}

func (j *journal) path(suffix string) string { return filepath.Join(j.dir, journalName+suffix) }

// replace writes a new file with what counts of the old one.
func (j *journal) replace() error {
	entries, _, err := j.read()
	if err != nil {
		return err
	}
	var lines []byte
	for _, e := range entries {
		lines = appendLine(lines, e.verb(), e.id, e.data)
	}
	f, err := os.OpenFile(j.path(newSuffix), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	next := journal{dir: j.dir, file: f}
	if err := errors.Join(next.reserve(int64(len(lines))), next.write(lines)); err != nil {
		return errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	if err := os.Rename(f.Name(), j.path("")); err != nil {
		return errors.Join(err, f.Close())
	}
	_ = j.file.Close() // it has been replaced
	j.file, j.size, j.room, j.compact = f, next.size, next.room, max(minCompact, 2*next.size)
	return nil
}

// entry is what a journal says of one volume.
type entry struct {
	id        string
	data      []byte // the newest record
	published bool
}

// verb is what a line says that stands for all that led to e.
func (e entry) verb() string {
	if e.published {
		return verbSaved
	}
	return verbBegun
}

// read returns the volumes of which something may be left, in the order of their IDs, and the lines that make no sense.
func (j *journal) read() (entries []entry, bad []string, err error) {
	data := make([]byte, j.size)
	if _, err := j.file.ReadAt(data, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	volumes := map[string]entry{}
	for line := range bytes.Lines(data) {
		if !follow(volumes, bytes.TrimSuffix(line, []byte("\n"))) {
			bad = append(bad, string(line))
		}
	}
	for _, e := range volumes {
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.id, b.id) })
	return entries, bad, nil
}

// follow does to volumes what a line says, and tells whether the line says anything.
func follow(volumes map[string]entry, line []byte) bool {
	verb, rest, _ := strings.Cut(string(line), " ")
	quoted, err := strconv.QuotedPrefix(rest)
	if err != nil {
		return false
	}
	id, err := strconv.Unquote(quoted)
	if err != nil {
		return false
	}
	record, _ := strings.CutPrefix(rest[len(quoted):], " ")
	e, known := volumes[id]
	switch {
	case verb == verbBegun || verb == verbSaved:
		volumes[id] = entry{id: id, data: []byte(record), published: verb == verbSaved}
		return true
	case record != "":
		return false
	case verb == verbRemoved:
		delete(volumes, id)
	case verb == verbPublished || verb == verbWithdrawn:
		e.published = verb == verbPublished
		if known {
			volumes[id] = e
		}
	default:
		return false
	}
	return true
}

// errBadRecord is returned for a record whose content can't be used, now or later.
var errBadRecord = errors.New("bad record")

// load opens the file anew, sets aside the lines that make no sense, and returns the volumes that the others are about.
// What is set aside is kept in another file; bad is called for each, with the reason.
func (j *journal) load(bad func(error)) ([]entry, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file != nil {
		_ = j.file.Close()
		j.file = nil
	}
	if err := j.open(); err != nil {
		return nil, fmt.Errorf("open records: %w", err)
	}
	entries, lines, err := j.read()
	if err != nil {
		return nil, fmt.Errorf("read records: %w", err)
	}
	for _, line := range lines {
		bad(fmt.Errorf("%w: a line of %d bytes says nothing that an agent of this version writes", errBadRecord, len(line)))
	}
	if err := j.keep(lines); err != nil {
		return nil, err
	}
	j.tidy()
	return entries, nil
}

// setAside keeps a record that can't be read for people to look at.
func (j *journal) setAside(e entry) error {
	j.mu.Lock()
	err := j.keep([]string{string(appendLine(nil, e.verb(), e.id, e.data))})
	j.mu.Unlock()
	if err != nil {
		return err
	}
	return j.remove(e.id)
}

func (j *journal) keep(lines []string) error {
	if len(lines) == 0 {
		return nil
	}
	f, err := os.OpenFile(j.path(badSuffix), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.WriteString(strings.Join(lines, ""))
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("set records aside: %w", err)
	}
	return nil
}

// record returns the record of an entry, and what it asks for.
func (e entry) record() (record, Spec, error) {
	var r record
	if err := json.Unmarshal(e.data, &r); err != nil {
		return r, Spec{}, fmt.Errorf("%w of volume %q: %w", errBadRecord, e.id, err)
	}
	if r.Version != recordVersion || r.ID != e.id {
		return r, Spec{}, fmt.Errorf("%w of volume %q: it has version %d and is of volume %q", errBadRecord, e.id, r.Version, r.ID)
	}
	spec, err := r.spec()
	if err != nil {
		return r, Spec{}, fmt.Errorf("%w of volume %q: %w", errBadRecord, e.id, err)
	}
	return r, spec, nil
}
