// Package glob compares texts with patterns in which '*' stands for any characters and '?' for one (Appendices,
// "Glob-style matching"). Patterns and texts are strangers', so the time does not depend on what they say: it is in the
// order of the text's length times a 64th of the pattern's.
//
// Push rules and access lists of rooms match with it. Case is theirs: it compares what it is given. Fold is how searches
// make texts alike.
package glob
