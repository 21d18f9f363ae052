package volume

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keywell/keywell/pkg/scope"
)

// record is what is kept of a volume so that another process can go on with it: what was asked for, and which tmpfs was
// made for it. It holds no value, no token and no digest.
type record struct {
	Published  int               `json:"published"` // 1, or 0 while it is being published or unpublished; the first member
	Version    int               `json:"version"`
	ID         string            `json:"id"`
	Target     string            `json:"target"`
	Identity   scope.Identity    `json:"identity"`
	Attributes map[string]string `json:"attributes"` // without those of the kubelet, one of which holds tokens
	MountGroup string            `json:"mountGroup,omitempty"`
	MountFlags []string          `json:"mountFlags,omitempty"`
	Created    time.Time         `json:"created"`
	Device     uint64            `json:"device,omitempty"` // of the tmpfs; see mount.Info; 0: it is being mounted
	Held       []held            `json:"held,omitempty"`   // what was issued for it
}

// recordVersion changes when an older agent would misread a record.
const recordVersion = 1

// recordOf returns the record of a volume that req asks for.
func recordOf(req Request) record {
	r := record{
		Version:    recordVersion,
		ID:         req.VolumeID,
		Target:     req.TargetPath,
		Identity:   req.Identity,
		Attributes: maps.Clone(req.Attributes),
		MountGroup: req.MountGroup,
		MountFlags: slices.Clone(req.MountFlags),
	}
	maps.DeleteFunc(r.Attributes, func(name, _ string) bool { return strings.HasPrefix(name, reservedPrefix) })
	return r
}

// asksFor tells whether r and other come from the same request. What annotations of the pod say is left out: they
// may change, or not be known yet when the agent has just started.
func (r record) asksFor(other record) bool {
	r.Identity.AppID, r.Identity.Configuration = other.Identity.AppID, other.Identity.Configuration
	return r.ID == other.ID && r.Target == other.Target && r.Identity == other.Identity &&
		maps.Equal(r.Attributes, other.Attributes) && r.MountGroup == other.MountGroup && slices.Equal(r.MountFlags, other.MountFlags)
}

// records is the directory of records. Operations on one volume ID take turns.
type records struct {
	dir    *os.Root
	handle *os.File // the same directory, for what os.Root does with more system calls
}

// A record is a file. Publishing and unpublishing a volume changes no more of it than the digit that says whether the
// volume is published, in place.
const (
	recordSuffix = ".json"
	newSuffix    = ".new" // being written, to replace a record
	badSuffix    = ".bad" // could not be read

	publishedMember = `{"published":` // what every record starts with, before the digit
)

func openRecords(stateDir string) (records, error) {
	dir := filepath.Join(stateDir, "volumes")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return records{}, fmt.Errorf("open records: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return records{}, fmt.Errorf("open records: %w", err)
	}
	handle, err := root.Open(".")
	if err != nil {
		return records{}, fmt.Errorf("open records: %w", err)
	}
	return records{dir: root, handle: handle}, nil
}

// fileName hides what a volume ID may do to a path. It is short enough for the kernel to keep beside the file.
func fileName(id string) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:16]) + recordSuffix
}

// save replaces the record of r.ID by one rename. It does not sync: a record describes a mount, which does not outlive
// the kernel either.
func (rs records) save(r record) error {
	name, dir := fileName(r.ID), int(rs.handle.Fd())
	data, err := json.Marshal(r)
	if err == nil {
		err = createFile(dir, name+newSuffix, unix.O_TRUNC, 0o600, owner{-1, -1}, data)
	}
	if err == nil {
		err = unix.Renameat(dir, name+newSuffix, dir, name)
	}
	if err != nil {
		return fmt.Errorf("save record of volume %q: %w", r.ID, err)
	}
	return nil
}

// begin writes the record of a volume that is being published. It is not replaced by a rename: one that was cut off is
// of a volume of which nothing is on the node.
func (rs records) begin(r record) (draft, error) {
	data, err := json.Marshal(r)
	if err != nil {
		return draft{}, fmt.Errorf("write record of volume %q: %w", r.ID, err)
	}
	fd, err := openFile(int(rs.handle.Fd()), fileName(r.ID), unix.O_CREAT|unix.O_TRUNC, 0o600)
	if err != nil {
		return draft{}, fmt.Errorf("write record of volume %q: %w", r.ID, err)
	}
	if err := writeAll(fd, data); err != nil {
		return draft{}, fmt.Errorf("write record of volume %q: %w", r.ID, errors.Join(err, unix.Close(fd)))
	}
	return draft{fd}, nil
}

// draft is the open record of a volume that is being published. The zero draft is none.
type draft struct{ fd int }

// commit says that the volume is published.
func (d draft) commit() error { return setPublished(d.fd, '1') }

func (d draft) close() {
	if d.fd > 0 {
		_ = unix.Close(d.fd)
	}
}

// setPublished overwrites the digit. A write of one byte is done or not done, whenever the process ends.
func setPublished(fd int, digit byte) error {
	if _, err := unix.Pwrite(fd, []byte{digit}, int64(len(publishedMember))); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	return nil
}

// withdraw says that the volume is being unpublished.
func (rs records) withdraw(id string) error {
	fd, err := openFile(int(rs.handle.Fd()), fileName(id), 0, 0)
	if err == nil {
		err = errors.Join(setPublished(fd, '0'), unix.Close(fd))
	}
	if err != nil {
		return fmt.Errorf("withdraw record of volume %q: %w", id, err)
	}
	return nil
}

// remove removes the record of a volume, if there is one.
func (rs records) remove(id string) error {
	err := unlink(int(rs.handle.Fd()), fileName(id))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove record of volume %q: %w", id, err)
	}
	return nil
}

// list returns the names of all record files, and removes what a save that did not end has left.
func (rs records) list() ([]string, error) {
	entries, err := fs.ReadDir(rs.dir.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("list records: %w", err)
	}
	var names []string
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case recordSuffix:
			names = append(names, e.Name())
		case newSuffix:
			if err := rs.dir.Remove(e.Name()); err != nil {
				return nil, fmt.Errorf("list records: %w", err)
			}
		}
	}
	return names, nil
}

var (
	// errBadRecord is returned for a record whose content can't be used, now or later.
	errBadRecord = errors.New("bad record")
	// errTornRecord is returned for one that was cut off while the volume was being published.
	errTornRecord = errors.New("torn record")
)

// load reads a record and what it asks for.
func (rs records) load(name string) (record, Spec, error) {
	var r record
	data, err := rs.dir.ReadFile(name)
	if err != nil {
		return r, Spec{}, fmt.Errorf("load record: %w", err)
	}
	if err := json.Unmarshal(data, &r); err != nil {
		if wasBegun := publishedMember + "0"; strings.HasPrefix(wasBegun, string(data[:min(len(data), len(wasBegun))])) {
			return r, Spec{}, fmt.Errorf("%w %s", errTornRecord, name)
		}
		return r, Spec{}, fmt.Errorf("%w %s: %w", errBadRecord, name, err)
	}
	if r.Version != recordVersion || fileName(r.ID) != name {
		return r, Spec{}, fmt.Errorf("%w %s: it has version %d and is of volume %q", errBadRecord, name, r.Version, r.ID)
	}
	spec, err := r.spec()
	if err != nil {
		return r, Spec{}, fmt.Errorf("%w %s: %w", errBadRecord, name, err)
	}
	return r, spec, nil
}

// setAside keeps a record that can't be read for people to look at.
func (rs records) setAside(name string) error { return rs.dir.Rename(name, name+badSuffix) }
