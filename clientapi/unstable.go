package clientapi

// unstableParameter is a query parameter's name from before it came into the specification. Released clients go on asking
// by such names, and look for the answer under names of the same kind.
type unstableParameter struct {
	name, stable string
	// answers are the members of the answer that whoever asks by the name looks for, and what they are called in the
	// specification.
	answers map[string]string
}

// unstableParameters are all those that are understood, on every endpoint that has the stable one. What is asked by both
// names is answered by the stable one.
var unstableParameters = []unstableParameter{
	{"org.matrix.msc4222.use_state_after", "use_state_after", map[string]string{"state_after": "org.matrix.msc4222.state_after"}},
	{"org.matrix.msc3715.dir", "dir", nil},
	{"org.matrix.msc3981.recurse", "recurse", nil},
}

// stabilize gives the parameters that came under unstable names their stable ones.
func (c *call) stabilize() {
	for i := range unstableParameters {
		p := &unstableParameters[i]
		if value, ok := c.values[p.name]; ok && !c.values.Has(p.stable) {
			c.values[p.stable] = value
			c.unstable = append(c.unstable, p)
		}
	}
}

// answerName is what a member of the answer has to be called for who asks, if not by its stable name.
func (c *call) answerName(stable string) string {
	for _, p := range c.unstable {
		if name, ok := p.answers[stable]; ok {
			return name
		}
	}
	return ""
}
