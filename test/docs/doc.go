// Package docs holds the tests that keep the documentation true. They read the pages and hold them against the code:
// manifests load without a finding, examples of volumes give the files that stand beside them, tables of flags and
// settings are those of the agent, links lead somewhere, and shell sessions print what the page says.
//
// The tests know blocks by their language:
//
//	yaml     manifests, a Pod with Keywell volumes, volumeAttributes, or RBAC
//	txtar    after a block of volumeAttributes: the files that a volume gets, as "-- path mode --"
//	json     a file, if its name stands on the line before
//	console  a session; "…" in what it prints stands for any text on one line
//
// A block whose name stands alone on the line before, as `name`: and nothing else, is a file that sessions find in their
// working directory.
package docs
