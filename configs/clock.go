package configs

import (
	"fmt"
	"slices"
	"strings"
)

// WorkingHours are the times at which people work on an instance.
type WorkingHours struct {
	Zone  string   `yaml:"zone" jsonschema:"required" jsonschema_description:"IANA time zone, e.g. Europe/Sofia."`
	From  string   `yaml:"from" jsonschema:"required" jsonschema_description:"Time of day, e.g. 08:00."`
	To    string   `yaml:"to" jsonschema:"required" jsonschema_description:"Time of day, e.g. 18:00. Not after from: it is of the next day. 24:00 is the end of the day."`
	Days  []string `yaml:"days" jsonschema_description:"mon, tue, wed, thu, fri, sat, sun. Default: mon to fri."`
	Allow string   `yaml:"allow" jsonschema:"enum=live,enum=nothing,default=live" jsonschema_description:"What starts in them: live runs (backfills wait for their end), or nothing (live runs wait too)."`
}

func (v *validator) workingHours(key string, h *WorkingHours) {
	if h.Zone == "" || h.From == "" || h.To == "" || v.checks.Hours == nil {
		return // missing: reported already
	}
	if err := v.checks.Hours(h.Days, h.From, h.To, h.Zone); err != nil {
		v.at(key, err.Error(), "")
	}
}

// order checks what jobs come after: jobs that there are, each once, and no circle.
func (v *validator) order() {
	names := sortedKeys(v.Jobs)
	for _, name := range names {
		seen := map[string]bool{}
		for i, before := range v.Jobs[name].After {
			at := fmt.Sprintf("jobs.%s.after[%d]", name, i)
			v.reference(at, before, "job", names)
			if seen[before] {
				v.at(at, "the job stands twice", "remove one of the two")
			}
			seen[before] = true
		}
	}
	told := map[string]bool{}
	for _, name := range names {
		if circle := v.circle(name, nil); len(circle) > 0 && !told[name] {
			for _, of := range circle {
				told[of] = true
			}
			v.at("jobs."+name+".after", "these jobs wait for one another: "+strings.Join(append(circle, name), ", "), "take one of them out")
		}
	}
}

// circle is the way from a job over what it comes after back to it, nil if there is none.
func (v *validator) circle(name string, way []string) []string {
	if len(way) > 0 && name == way[0] {
		return way
	}
	if slices.Contains(way, name) {
		return nil // a circle that the first job is not part of
	}
	for _, before := range v.Jobs[name].After {
		if found := v.circle(before, append(slices.Clone(way), name)); found != nil {
			return found
		}
	}
	return nil
}
