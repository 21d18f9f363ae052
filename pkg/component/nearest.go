package component

import "strings"

// Nearest returns the name among known that is most like name, upper and lower case aside, and whether it is so much
// like it that name is probably a slip for it.
func Nearest(name string, known []string) (string, bool) {
	if len(name) > 64 {
		return "", false
	}
	best, least := "", len(name)/3+1
	for _, k := range known {
		if n := distance(strings.ToLower(name), strings.ToLower(k)); n <= least && (best == "" || n < least) {
			best, least = k, n
		}
	}
	return best, best != ""
}

// distance counts the bytes to insert, delete or replace to make b of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1) // distance of the first i bytes of a to the first j bytes of b
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
