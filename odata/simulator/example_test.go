package simulator_test

import (
	"fmt"
	"log"
	"net/http/httptest"
	"slices"

	"github.com/tablexport/tablexport/odata/simulator"
)

// A test starts an instance that cuts its answers, breaks one of them, and loses rows between two pages, and asks the
// oracle afterwards.
func Example() {
	s, err := simulator.New(simulator.Options{
		Seed:     1,
		Rows:     map[string]int64{"Gen_Products": 1000},
		Behavior: simulator.Behavior{MaxRows: 300, OrderBy: simulator.RefuseOrderBy},
		Faults:   []simulator.Fault{{Table: "Gen_Products", Nth: 2, Effect: simulator.CutRows(17)}},
	})
	if err != nil {
		log.Fatal(err)
	}
	ts := httptest.NewServer(s)
	defer ts.Close()
	s.Before("Gen_Products", 3, func() {
		if _, err := s.Delete("Gen_Products", 20); err != nil {
			log.Fatal(err)
		}
	})
	mark := s.Oracle().Mark()

	// … a client reads ts.URL with simulator.DemoToken; here an empty copy stands for it …
	empty := slices.Values([]simulator.Row{})
	if s.Oracle().Check(mark, "Gen_Products", "Active eq true", []string{"Id"}, empty) != nil {
		fmt.Println("the empty copy is not correct")
	}
	// Output: the empty copy is not correct
}
