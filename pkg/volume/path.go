package volume

import (
	"errors"
	"fmt"
	"iter"
	"path"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of Linux (NAME_MAX, PATH_MAX), as in the kubelet's atomic writer.
const (
	maxPathElement = 255
	maxPath        = 4096
)

// checkPath says what keeps p from being the path of a file in a volume. Elements that start with ".." are reserved for
// the atomic swap, as by the kubelet.
func checkPath(p string) error {
	switch {
	case p == "":
		return errors.New("is empty")
	case !utf8.ValidString(p) || strings.ContainsFunc(p, unicode.IsControl):
		return errors.New("holds bytes that are not text")
	case len(p) > maxPath:
		return fmt.Errorf("is longer than %d bytes", maxPath)
	case path.IsAbs(p):
		return errors.New("is absolute")
	}
	for elem := range strings.SplitSeq(p, "/") {
		switch {
		case strings.HasPrefix(elem, ".."):
			return errors.New(`has an element that starts with ".."`)
		case len(elem) > maxPathElement:
			return fmt.Errorf("has an element longer than %d bytes", maxPathElement)
		}
	}
	if path.Clean(p) != p || p == "." || !filepath.IsLocal(p) {
		return errors.New("is not a path in its shortest form")
	}
	return nil
}

// pathSet finds paths that can't be in one volume. Make one with newPathSet.
type pathSet struct {
	leaves map[string]pathOwner // path of a file, or of one item's own directory → whom it belongs to
	above  map[string]pathOwner // path of a directory above a leaf → whom the leaf belongs to; nil: there is none
}

// newPathSet returns an empty set with room for some paths.
func newPathSet(room int) pathSet {
	return pathSet{leaves: make(map[string]pathOwner, room)}
}

// pathOwner is a secret, or something else in words. Its text is made only where a problem needs it.
type pathOwner struct{ store, name, words string }

func (o pathOwner) String() string {
	if o.words != "" {
		return o.words
	}
	return fmt.Sprintf("secret %q of store %q", o.name, o.store)
}

// add puts p in the set. It fails if p is there, is above a path that is there, or is below one.
func (s *pathSet) add(p string, owner pathOwner) error {
	if other, ok := s.leaves[p]; ok {
		return fmt.Errorf("%s and %s both have path %q", other, owner, p)
	}
	if other, ok := s.above[p]; ok {
		return fmt.Errorf("%s needs a directory %q, where %s has a file", other, p, owner)
	}
	for dir := range parents(p) {
		if other, ok := s.leaves[dir]; ok {
			return fmt.Errorf("%s needs a directory %q, where %s has a file", owner, dir, other)
		}
	}
	s.leaves[p] = owner
	for dir := range parents(p) {
		if s.above == nil {
			s.above = map[string]pathOwner{}
		}
		s.above[dir] = owner
	}
	return nil
}

// parents are the directories above p, in a volume, the nearest first. p is in its shortest form.
func parents(p string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := strings.LastIndexByte(p, '/'); i > 0; i = strings.LastIndexByte(p[:i], '/') {
			if !yield(p[:i]) {
				return
			}
		}
	}
}
