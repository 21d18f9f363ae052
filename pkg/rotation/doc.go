// Package rotation decides which volume is due when, and has it rotated.
//
// A Scheduler holds one heap of due times for all volumes of the node and a few workers. A volume comes due when its
// time is reached or when it is nudged, because something that it shows may have changed. What a rotation does is the
// Rotate func of Options; the package knows no volume, no store and no file.
//
// It promises: a volume is never rotated twice at the same time; a nudge is never lost, and any number of nudges before
// a rotation starts are one rotation; a removed volume is not rotated again, and a rotation of it that runs is
// cancelled; a volume that fails is tried again, less and less often, until it succeeds or is removed, and one whose
// rotation panics has failed. Every operation costs O(log n) for n volumes, and there is one timer.
//
// Due times are spread (up to a tenth of the interval early, never late), so that volumes published together drift
// apart. Nudges are not: they are spread by the number of workers only, so that a change shows within the second.
//
// The functions cmd/agent hands to package volume call Add and Remove; those it hands to package resolve call Nudge.
package rotation
