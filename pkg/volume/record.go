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
	Version    int               `json:"version"`
	ID         string            `json:"id"`
	Target     string            `json:"target"`
	Identity   scope.Identity    `json:"identity"`
	Attributes map[string]string `json:"attributes"` // without those of the kubelet, one of which holds tokens
	MountGroup string            `json:"mountGroup,omitempty"`
	MountFlags []string          `json:"mountFlags,omitempty"`
	Created    time.Time         `json:"created"`
	Device     uint64            `json:"device,omitempty"` // of the tmpfs; see mount.Info; 0: it is being mounted
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

// asksFor tells whether r and other come from the same request. The app id is left out: it is an annotation of the pod,
// which may change, or not be known yet when the agent has just started.
func (r record) asksFor(other record) bool {
	r.Identity.AppID = other.Identity.AppID
	return r.ID == other.ID && r.Target == other.Target && r.Identity == other.Identity &&
		maps.Equal(r.Attributes, other.Attributes) && r.MountGroup == other.MountGroup && slices.Equal(r.MountFlags, other.MountFlags)
}

// records is the directory of records. Operations on one volume ID take turns.
type records struct {
	dir    *os.Root
	handle *os.File // the same directory, for what os.Root does with more system calls
}

// The record of a published volume is a file whose name ends with recordSuffix. Every other state is told by a further
// suffix, so that it changes by one rename.
const (
	recordSuffix  = ".json"
	partialSuffix = ".partial" // of a volume that is being published or unpublished
	newSuffix     = ".new"     // being written, to replace the record of a published volume
	badSuffix     = ".bad"     // could not be read
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

// fileName hides what a volume ID may do to a path.
func fileName(id string) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:]) + recordSuffix
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
func (rs records) begin(r record) error {
	data, err := json.Marshal(r)
	if err == nil {
		err = createFile(int(rs.handle.Fd()), fileName(r.ID)+partialSuffix, unix.O_TRUNC, 0o600, owner{-1, -1}, data)
	}
	if err != nil {
		return fmt.Errorf("write record of volume %q: %w", r.ID, err)
	}
	return nil
}

// commit says that the volume is published.
func (rs records) commit(id string) error { return rs.rename(id, partialSuffix, "") }

// withdraw says that the volume is being unpublished.
func (rs records) withdraw(id string) error { return rs.rename(id, "", partialSuffix) }

func (rs records) rename(id, from, to string) error {
	name, dir := fileName(id), int(rs.handle.Fd())
	if err := unix.Renameat(dir, name+from, dir, name+to); err != nil {
		return fmt.Errorf("rename record of volume %q: %w", id, err)
	}
	return nil
}

// drop removes the record of a volume that is not published, if there is one.
func (rs records) drop(id string) error { return rs.unlink(id, partialSuffix) }

// remove removes whatever record there is of a volume.
func (rs records) remove(id string) error {
	return errors.Join(rs.unlink(id, partialSuffix), rs.unlink(id, ""))
}

func (rs records) unlink(id, suffix string) error {
	err := unix.Unlinkat(int(rs.handle.Fd()), fileName(id)+suffix, 0)
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
		case recordSuffix, partialSuffix:
			names = append(names, e.Name())
		case newSuffix:
			if err := rs.dir.Remove(e.Name()); err != nil {
				return nil, fmt.Errorf("list records: %w", err)
			}
		}
	}
	return names, nil
}

// errBadRecord is returned for a record whose content can't be used, now or later.
var errBadRecord = errors.New("bad record")

// load reads a record and what it asks for.
func (rs records) load(name string) (record, Spec, error) {
	var r record
	data, err := rs.dir.ReadFile(name)
	if err != nil {
		return r, Spec{}, fmt.Errorf("load record: %w", err)
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, Spec{}, fmt.Errorf("%w %s: %w", errBadRecord, name, err)
	}
	if r.Version != recordVersion || fileName(r.ID) != strings.TrimSuffix(name, partialSuffix) {
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
