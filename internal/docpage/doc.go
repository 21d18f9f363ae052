// Package docpage reads the pages of the documentation for the tests that keep them true: its fenced blocks, the tables
// below its headings, and the sessions in it, which it runs and compares with what the page shows.
//
// The tests know blocks by their language:
//
//	yaml     manifests, a Pod with Keywell volumes, volumeAttributes, or RBAC
//	txtar    after a block of volumeAttributes: the files that a volume gets, as "-- path mode --"
//	json     a file, if its name stands on the line before
//	console  a session: commands after "$ " and what they print, where "…" stands for any text on a line, and for any lines
//	         where it stands alone
//
// A block whose name stands alone on the line before, as `name`: and nothing else, is a file that sessions find in their
// working directory.
package docpage
