package manage

// WithTerminal decides which streams are terminals.
func WithTerminal(is func(stream any) bool) Option { return func(c *config) { c.terminal = is } }
