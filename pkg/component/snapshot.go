package component

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
)

// snapshot is what is known of the sources after each load. One goroutine uses it.
type snapshot struct {
	src      Sources
	loaded   bool
	listings map[string][]string // directory → paths in it, when it could last be read
	files    map[string]*file    // path → what is known of it
	problems []Problem           // of the last load
	places   []string            // of the sources, as of the last call of folders
	inside   []string            // folders that hold files or what these point to, likewise
}

// file is the last known state of one manifest file.
type file struct {
	digest   [sha256.Size]byte // of the content that was decoded last
	known    bool              // digest is set
	inForce  contribution
	problems []Problem // of the content that was decoded last
	unread   []Problem // why it can't be read now
}

func newSnapshot(src Sources) *snapshot {
	src.Directories, src.Files = clean(src.Directories), clean(src.Files)
	return &snapshot{src: src, listings: map[string][]string{}, files: map[string]*file{}}
}

func clean(paths []string) []string {
	var all []string
	for _, p := range paths {
		if p = filepath.Clean(p); !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	return all
}

// load reads the sources and reports whether anything differs from the last load.
func (s *snapshot) load() (m *Manifests, problems []Problem, changed bool) {
	paths, faulty, problems := s.paths()
	changed = !s.loaded
	for _, path := range paths {
		changed = s.refresh(path) || changed
	}
	for path := range s.files {
		if !slices.Contains(paths, path) {
			delete(s.files, path)
			changed = true
		}
	}
	m = &Manifests{Faulty: faulty}
	a := assembly{m: m, components: map[string]Position{}, policies: map[string]Position{}, classes: map[string]Position{}}
	for _, path := range paths {
		f := s.files[path]
		problems = append(append(problems, f.unread...), f.problems...)
		a.add(f.inForce)
	}
	problems = append(problems, a.problems...)
	changed = changed || !slices.Equal(problems, s.problems)
	s.loaded, s.problems = true, problems
	return m, problems, changed
}

// paths returns the files to read. A directory that can't be read keeps the files that it had: its removal is more often
// half of its replacement than meant.
func (s *snapshot) paths() (paths []string, faulty []Position, problems []Problem) {
	for _, dir := range s.src.Directories {
		found, err := list(dir)
		if err == nil {
			s.listings[dir] = found
		} else {
			problems = append(problems, unreadable(dir, "resource directory", err))
			if _, known := s.listings[dir]; !known {
				faulty = append(faulty, Position{File: dir})
			}
		}
		for _, path := range s.listings[dir] {
			if !slices.Contains(s.src.Files, path) {
				paths = append(paths, path)
			}
		}
	}
	return append(paths, s.src.Files...), faulty, problems
}

// refresh reads one file again and reports whether its content changed. A version with an error changes nothing, unless
// it is there at the first load: then its good documents are better than nothing.
func (s *snapshot) refresh(path string) (changed bool) {
	f, ok := s.files[path]
	if !ok {
		f = &file{}
		s.files[path] = f
	}
	explicit := slices.Contains(s.src.Files, path)
	content, err := read(path)
	if err == nil && len(content) == 0 && f.known {
		err = errors.New("has become empty, as a file does that is about to be written")
	}
	if err != nil {
		f.unread = []Problem{unreadable(path, "manifest", err)}
		if !s.loaded {
			f.inForce.faulty = []Position{{File: path}}
		}
		return !ok
	}
	f.unread = nil
	digest := sha256.Sum256(content)
	if f.known && f.digest == digest {
		return false
	}
	f.digest, f.known = digest, true
	var decoded contribution
	decoded, f.problems = decodeFile(&s.src, path, content, explicit)
	if !s.loaded || !HasErrors(f.problems) {
		f.inForce = decoded
	}
	return true
}

func unreadable(path, what string, err error) Problem {
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		err = pathErr.Err // the path is the problem's position
	}
	return Problem{
		Position: Position{File: path}, Severity: Error,
		Message: fmt.Sprintf("read %s: %v", what, err), Remedy: "check the path and its permissions",
	}
}

// assembly puts the contributions of all files together. Of two components of one name the first stays. Of two policies
// both count, because without the second there may be a deny less.
type assembly struct {
	m          *Manifests
	components map[string]Position // name → where it was defined first
	policies   map[string]Position
	classes    map[string]Position // namespace/name, likewise
	problems   []Problem
}

func (a *assembly) add(c contribution) {
	for _, component := range c.components {
		if first, twice := a.components[component.Name]; twice {
			a.again(Error, "component", component.Name, component.Position, first)
			continue
		}
		a.components[component.Name] = component.Position
		a.m.Components = append(a.m.Components, component)
	}
	for _, policy := range c.policies {
		if first, twice := a.policies[policy.Name]; twice {
			a.again(Warning, "AccessPolicy", policy.Name, policy.Position, first)
		}
		a.policies[policy.Name] = policy.Position
	}
	for _, class := range c.classes {
		name := class.Namespace + "/" + class.Name
		if first, twice := a.classes[name]; twice {
			a.again(Error, KindSecretProviderClass, class.Name, class.Position, first)
			continue
		}
		a.classes[name] = class.Position
		a.m.Classes = append(a.m.Classes, class)
	}
	a.m.Policies = append(a.m.Policies, c.policies...)
	a.m.Configurations = append(a.m.Configurations, c.configurations...)
	a.m.Faulty = append(a.m.Faulty, c.faulty...)
}

// again reports a second object of one name.
func (a *assembly) again(s Severity, kind, name string, at, first Position) {
	a.problems = append(a.problems, Problem{
		Position: at, Severity: s, Field: "metadata.name",
		Message: fmt.Sprintf("%s %q is already defined at %s", kind, name, first),
		Remedy:  "rename or remove one of the two",
	})
}
