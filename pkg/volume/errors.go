package volume

import (
	"errors"
	"fmt"
	"strings"
)

// ErrConflict is returned by Publish for a volume ID that is already published with another request, and by Unpublish
// for a target path that belongs to another volume.
var ErrConflict = errors.New("volume conflicts with one that is published")

// ErrTooLarge is returned when a volume's files exceed its size, or those of all volumes the node's limit.
var ErrTooLarge = errors.New("volume is too large")

// ErrNotPublished is returned for a volume ID that is not published.
var ErrNotPublished = errors.New("volume is not published")

// ErrUnpublished is the cause with which Unpublish ends a publish or a rotation of the same volume.
var ErrUnpublished = errors.New("volume is being unpublished")

// InvalidError says everything that is wrong with a request, or with what a store returned for it, such that no retry
// helps: the volume's attributes have to change. It holds names and paths, never values.
type InvalidError struct {
	Problems []string // at least one; each names the attribute, line, item or field, and the remedy
}

// How much of the problems a message holds: it goes into a pod's event and the log, and the author of a pod chooses how
// many problems there are and how long the names in them.
const (
	maxProblems      = 10
	maxProblemLength = 500
)

// Error joins the first ten problems, cutting those that are very long.
func (e *InvalidError) Error() string {
	var b strings.Builder
	for i, p := range e.Problems {
		switch {
		case i == maxProblems:
			fmt.Fprintf(&b, "; and %d more", len(e.Problems)-maxProblems)
			return b.String()
		case i > 0:
			b.WriteString("; ")
		}
		if len(p) > maxProblemLength {
			p = strings.ToValidUTF8(p[:maxProblemLength], "") + "…"
		}
		b.WriteString(p)
	}
	return b.String()
}
