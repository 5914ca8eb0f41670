package configs

import "strings"

// quarantines checks what belongs to schema: quarantine.
func (v *validator) quarantines(key string, j Job) {
	if j.MaxQuarantined != 0 && j.Schema != "quarantine" {
		v.at(key+".max_quarantined", "a bound for quarantined rows without schema: quarantine", "write schema: quarantine beside it, or remove it")
	}
	if j.Schema != "quarantine" || j.Path == "" {
		return
	}
	// The quarantine lies beside the dataset, under its path with this suffix: see package export.
	beside := strings.TrimSuffix(j.Path, "/") + ".quarantine"
	for _, name := range sortedKeys(v.Jobs) {
		if other := v.Jobs[name]; other.Store == j.Store && (other.Path == beside || strings.HasPrefix(other.Path, beside+"/")) {
			v.at("jobs."+name+".path", "the quarantine of another job is there ("+key+")", "write another path")
		}
	}
}
