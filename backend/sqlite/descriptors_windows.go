package sqlite

import "math"

// descriptorLimit returns how many files the process may have open: there is no limit to speak of.
func descriptorLimit() int64 { return math.MaxInt32 }

// descriptorsRunOut says that what cannot be opened may be for want of a descriptor.
const descriptorsRunOut = false
