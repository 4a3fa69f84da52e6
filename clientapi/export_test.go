package clientapi

// UnstableParameters are the names by which parameters are understood besides their stable ones.
func UnstableParameters() (names []string) {
	for i := range unstableParameters {
		names = append(names, unstableParameters[i].name)
	}
	return names
}
