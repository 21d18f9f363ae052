package volume

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keywell/keywell/pkg/secret"
	"github.com/keywell/keywell/pkg/volume/mount"
)

// The names that the atomic swap uses, as the kubelet's atomic writer does. A volume holds one generation, a directory
// whose name starts with "..", the link ..data to it, and for each name in the generation a link that leads through
// ..data. Replacing ..data by one rename replaces all files at once.
const (
	reserved   = ".."
	dataLink   = "..data"
	dataLinkTo = "..data_tmp"
	generation = "..2006_01_02_15_04_05.000000000" // a time layout
)

// dirMode lets everybody in the pod reach the files, whose own modes then decide.
const dirMode = 0o755

// tree is what this process knows of the content of one mounted volume. The zero tree knows nothing.
type tree struct {
	data  string               // the generation that ..data leads to; empty: unknown
	files map[string]fileState // path → file of that generation; nil: unknown
	links []string             // the visible links
	clean bool                 // nothing else is in the volume
}

// fileState is what makes a file differ from another.
type fileState struct {
	digest [sha256.Size]byte
	mode   fs.FileMode
	owner  owner
}

func statesOf(files []File, o owner) map[string]fileState {
	states := make(map[string]fileState, len(files))
	for _, f := range files {
		states[f.Path] = fileState{digest: f.Data.Digest(), mode: f.Mode, owner: o}
	}
	return states
}

// holds tells whether the volume has exactly files, without looking.
func (t *tree) holds(files []File, o owner) bool {
	return t.clean && t.files != nil && maps.Equal(t.files, statesOf(files, o))
}

// replace makes files, sorted by path, the content of the volume, as a new generation: a change of mode or owner alone
// is one too, because a file that is being read must not change under its reader. A reader sees the old files or the
// new ones, never both through one ..data. step is called after each step, with its name; whatever step the process
// ends at, repair makes the volume whole. An error means that the files are the old ones, or that the volume could not
// be repaired either.
func (t *tree) replace(dir mount.Dir, files []File, o owner, step func(string)) error {
	if !t.clean {
		if err := t.repair(dir); err != nil {
			return err
		}
	}
	t.clean = false
	if err := t.swap(dir, files, o, step); err != nil {
		err = fmt.Errorf("write volume: %w", err)
		if failed := t.repair(dir); failed != nil {
			return errors.Join(err, failed)
		}
		if !t.holds(files, o) {
			return err
		}
	}
	t.clean = true
	return nil
}

func (t *tree) swap(dir mount.Dir, files []File, o owner, step func(string)) error {
	next := time.Now().UTC().Format(generation)
	if err := makeDir(dir.Fd(), next); err != nil {
		return err
	}
	step("generation made")
	if err := writeFiles(dir.Fd(), next, files, o); err != nil {
		return err
	}
	step("files written")
	if err := t.point(dir.Fd(), next, step); err != nil {
		return err
	}
	old := t.data
	t.data, t.files = next, statesOf(files, o)
	step("swapped")
	if err := t.link(dir.Fd(), topLevel(files)); err != nil {
		return err
	}
	step("links made")
	if old == "" {
		return nil
	}
	if err := removeAll(dir, old); err != nil {
		return err
	}
	step("old generation removed")
	return nil
}

// point makes ..data lead to a generation.
func (t *tree) point(dir int, next string, step func(string)) error {
	if t.data == "" { // there is no link to replace
		return makeLink(dir, dataLink, next)
	}
	if err := makeLink(dir, dataLinkTo, next); err != nil {
		return err
	}
	step("link made")
	return rename(dir, dataLinkTo, dataLink)
}

func writeFiles(dir int, name string, files []File, o owner) error {
	gen, err := openDir(dir, name)
	if err != nil {
		return err
	}
	defer unix.Close(gen)
	made := map[string]bool{".": true}
	for _, f := range files {
		if err := makeDirs(gen, path.Dir(f.Path), made); err != nil {
			return err
		}
		if err := createFile(gen, f.Path, f.Mode, o, f.Data.Reveal()); err != nil {
			return err
		}
	}
	return nil
}

func makeDirs(dir int, name string, made map[string]bool) error {
	if made[name] {
		return nil
	}
	if err := makeDirs(dir, path.Dir(name), made); err != nil {
		return err
	}
	made[name] = true
	return makeDir(dir, name)
}

// link makes names the visible links: new ones first, so that a file that moves is never missing.
func (t *tree) link(dir int, names []string) error {
	for _, name := range names {
		if slices.Contains(t.links, name) {
			continue
		}
		if err := makeLink(dir, name, linkTo(name)); err != nil {
			return err
		}
	}
	for _, name := range t.links {
		if slices.Contains(names, name) {
			continue
		}
		if err := unlink(dir, name); err != nil {
			return err
		}
	}
	t.links = names
	return nil
}

// linkTo is where the visible link of a name in the generation leads.
func linkTo(name string) string { return dataLink + "/" + name }

// repair removes whatever a swap that did not end has left, and makes the links fit the generation that ..data leads
// to. Everything in the volume is the agent's.
func (t *tree) repair(dir mount.Dir) error {
	root, err := dir.Root()
	if err != nil {
		return fmt.Errorf("repair volume: %w", err)
	}
	defer root.Close()
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return fmt.Errorf("repair volume: %w", err)
	}
	data, names, err := current(root)
	if err != nil {
		return fmt.Errorf("repair volume: %w", err)
	}
	if data != t.data {
		t.data, t.files = data, nil
	}
	t.links = nil
	for _, e := range entries {
		switch name := e.Name(); {
		case name == data, name == dataLink && data != "", holdsSockets(e):
		case slices.Contains(names, name) && isLink(root, name):
			t.links = append(t.links, name)
		default:
			if err := root.RemoveAll(name); err != nil {
				return fmt.Errorf("repair volume: %w", err)
			}
		}
	}
	if err := t.link(dir.Fd(), names); err != nil {
		return fmt.Errorf("repair volume: %w", err)
	}
	t.clean = true
	return nil
}

// current returns the generation that ..data leads to, and the names in it. A link to what can't be one counts as none;
// not so one that can't be looked at just now, or a shortage of file descriptors would pass for an empty volume.
func current(root *os.Root) (data string, names []string, err error) {
	data, err = root.Readlink(dataLink)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.EINVAL): // missing, or no link
		return "", nil, nil
	case err != nil:
		return "", nil, err
	case !strings.HasPrefix(data, reserved) || data == reserved || path.Base(data) != data:
		return "", nil, nil
	}
	info, err := root.Lstat(data)
	if errors.Is(err, fs.ErrNotExist) || (err == nil && !info.IsDir()) {
		return "", nil, nil
	}
	if err != nil {
		return "", nil, err
	}
	entries, err := fs.ReadDir(root.FS(), data)
	if err != nil {
		return "", nil, err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), reserved) {
			return "", nil, nil
		}
		names = append(names, e.Name())
	}
	return data, names, nil
}

func isLink(root *os.Root, name string) bool {
	to, err := root.Readlink(name)
	return err == nil && to == linkTo(name)
}

// adopt repairs a volume that another process has written, and learns its files by reading them. It returns what they
// take; if they can't be read as a volume's, the next replace writes them again.
func (t *tree) adopt(dir mount.Dir, o owner) (size int64, err error) {
	*t = tree{}
	if err := t.repair(dir); err != nil {
		return 0, err
	}
	root, err := dir.Root()
	if err != nil {
		return 0, fmt.Errorf("read volume: %w", err)
	}
	defer root.Close()
	files, err := readFiles(root, t.data, o)
	if err != nil {
		return 0, fmt.Errorf("read volume: %w", err)
	}
	t.files = statesOf(files, o)
	size, _ = footprint(files)
	return size, nil
}

// readFiles reads the files of a generation. All of them are o's.
func readFiles(root *os.Root, dir string, o owner) ([]File, error) {
	var files []File
	err := fs.WalkDir(root.FS(), dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() || !o.owns(info) {
			return fmt.Errorf("%q is not a file that the agent wrote", name)
		}
		data, err := root.ReadFile(name)
		if err != nil {
			return err
		}
		files = append(files, File{Path: strings.TrimPrefix(name, dir+"/"), Mode: info.Mode(), Data: secret.New(data)})
		return nil
	})
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return files, err
}

// owns tells whether a file has the owner that o asks for.
func (o owner) owns(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && (o.uid < 0 || int(st.Uid) == o.uid) && (o.gid < 0 || int(st.Gid) == o.gid)
}
