package tenancy

func isVictim() bool { return false }
func victim() int    { return 0 }
