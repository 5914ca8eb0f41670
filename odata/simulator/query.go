package simulator

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"sort"
	"strconv"
	"strings"
)

// query is a request for rows, understood.
type query struct {
	table    *table
	world    *world
	behavior Behavior
	values   url.Values
	base     string // address of the Table API, ends in "/"

	columns []*column
	plan    *filterPlan
	order   sequence
	mode    byte   // how the order was made, for the skiptoken: k = key, d = key descending, p = by place
	salt    uint64 // of orders that change
	start   int64  // place in the order to begin at (from a skiptoken)
	after   uint64 // ord to begin behind (from a skiptoken)
	skip    int64
	top     int64 // rows of the whole answer or chain, -1 = no limit
	inline  bool  // @odata.count
}

var errNoCount = errors.New("there is nothing at this address")

// parse reads the query options. The error is a *refusal for what answers 400.
func (s *Server) parse(r *http.Request, t *table, who *Token, b Behavior, onlyCount bool) (*query, error) {
	if onlyCount && b.Count&PathCount == 0 {
		return nil, errNoCount
	}
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, refuse("the query string is not properly encoded")
	}
	q := &query{
		table: t, behavior: b, values: values, base: baseURL(r) + tableAPI, top: -1,
		salt: mix(s.salt.Add(1) ^ s.opts.Seed),
	}
	for name, list := range values {
		if !strings.HasPrefix(name, "$") {
			return nil, refuse("the query option %q is not known", name)
		}
		if len(list) != 1 {
			return nil, refuse("the query option %s is given more than once", name)
		}
		switch {
		case name == "$filter" || name == "$select" || name == "$top" || name == "$skip" || name == "$orderby":
		case name == "$count" && b.Count&InlineCount != 0 && !onlyCount:
			if q.inline = list[0] == "true"; !q.inline && list[0] != "false" {
				return nil, refuse("$count must be true or false")
			}
		case name == "$skiptoken" && b.NextLink.PageSize > 0:
		default:
			return nil, refuse("the query option %s is not supported", name)
		}
	}
	terms, err := s.catalog.readFilter(values.Get("$filter"), t, true, b.Fractions)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	q.world = s.now
	s.mu.Unlock()
	q.plan = t.plan(q.world, append(terms, who.rows[t.Name]...))
	if onlyCount {
		return q, nil
	}
	if err := q.selection(); err != nil {
		return nil, err
	}
	if err := q.limits(); err != nil {
		return nil, err
	}
	return q, q.ordering()
}

func (q *query) selection() error {
	text, given := q.values["$select"]
	if !given {
		for i := range q.table.columns {
			q.columns = append(q.columns, &q.table.columns[i])
		}
		return nil
	}
	seen := map[string]bool{}
	for name := range strings.SplitSeq(text[0], ",") {
		name = strings.TrimSpace(name)
		col := q.table.column(name)
		if col == nil {
			return refuse("table %s has no column %q to be selected", q.table.Name, name)
		}
		if !seen[name] {
			q.columns = append(q.columns, col)
		}
		seen[name] = true
	}
	return nil
}

// limits reads $top and $skip.
func (q *query) limits() error {
	number := func(name string) (int64, error) {
		text, given := q.values[name]
		if !given {
			return -1, nil
		}
		n, err := strconv.ParseInt(text[0], 10, 64)
		if err != nil || n < 0 || n > math.MaxInt32 || text[0][0] == '+' {
			return 0, refuse("%s must be a whole number from 0 to %d", name, math.MaxInt32)
		}
		return n, nil
	}
	var err error
	if q.top, err = number("$top"); err != nil {
		return err
	}
	if q.skip, err = number("$skip"); err != nil {
		return err
	}
	q.skip = max(q.skip, 0)
	if q.behavior.IgnoreTop {
		q.top = -1
	}
	return nil
}

// ordering decides the order of the rows from $orderby, $skiptoken and what is natural here.
func (q *query) ordering() error {
	keys, err := q.orderBy()
	if err != nil {
		return err
	}
	if err := q.skipToken(); err != nil {
		return err
	}
	natural := q.behavior.Natural
	switch {
	case keys == nil && natural == Shuffled:
		q.mode, q.order = 'p', q.plan.shuffled(q.salt)
	case keys == nil && natural == ByColumn && q.table.column(q.behavior.NaturalColumn) != nil:
		keys = []sortKey{{column: q.table.column(q.behavior.NaturalColumn)}}
		q.mode, q.order = 'p', sorted(q.world, q.table, q.plan, keys, q.salt)
	case keys == nil || q.isKey(keys, false):
		q.mode, q.order = 'k', q.plan.ascending()
	case q.isKey(keys, true):
		q.mode, q.order = 'd', q.plan.descending()
	default:
		q.mode, q.order = 'p', sorted(q.world, q.table, q.plan, keys, q.salt)
	}
	if q.after != 0 && q.mode != 'p' {
		st := q.world.states[q.table.id]
		q.start = int64(sort.Search(int(q.order.n), func(k int) bool {
			ord := st.at(q.table.space, q.order.at(int64(k))).ord
			return ord > q.after == (q.mode == 'k') && ord != q.after
		}))
	}
	return nil
}

// orderBy reads $orderby; nil if there is none or it has no effect.
func (q *query) orderBy() ([]sortKey, error) {
	text, given := q.values["$orderby"]
	if !given {
		return nil, nil
	}
	if q.behavior.OrderBy == RefuseOrderBy {
		return nil, refuse("the query option $orderby is not supported")
	}
	var keys []sortKey
	for part := range strings.SplitSeq(text[0], ",") {
		fields := strings.Fields(part)
		if len(fields) == 0 || len(fields) > 2 || (len(fields) == 2 && fields[1] != "asc" && fields[1] != "desc") {
			return nil, refuse("$orderby must be a list of columns, each with asc or desc or nothing behind it")
		}
		col := q.table.column(fields[0])
		if col == nil {
			return nil, refuse("table %s has no column %q to be ordered by", q.table.Name, fields[0])
		}
		if !col.Key && !col.Sortable {
			return nil, refuse("column %s does not support sorting", col.Name)
		}
		keys = append(keys, sortKey{column: col, down: len(fields) == 2 && fields[1] == "desc"})
	}
	if q.behavior.OrderBy == IgnoreOrderBy {
		return nil, nil
	}
	return keys, nil
}

// isKey reports whether keys is the table's key, in order, in one direction. More keys behind it change nothing.
func (q *query) isKey(keys []sortKey, down bool) bool {
	if q.table.unique < 0 {
		return false
	}
	for i, at := range q.table.serial {
		col := &q.table.columns[at]
		if i >= len(keys) || keys[i].column != col || keys[i].down != down || !col.part {
			return false
		}
		if at == q.table.unique {
			return true
		}
	}
	return false
}

// skipToken reads what nextLink wrote.
func (q *query) skipToken() error {
	text, given := q.values["$skiptoken"]
	if !given {
		return nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(text[0])
	if err != nil {
		return refuse("$skiptoken is not one of this server")
	}
	var mode byte
	if n, err := fmt.Sscanf(string(raw), "%c.%x.%x.%x", &mode, &q.after, &q.salt, &q.start); err != nil || n != 4 || q.start < 0 {
		return refuse("$skiptoken is not one of this server")
	}
	q.skip = 0
	return nil
}

// nextLink returns the address of the page behind the rows written so far. last is the last row, place the
// place in the order behind it.
func (q *query) nextLink(last rowRef, place, written int64) string {
	next := url.Values{}
	for name, list := range q.values {
		next[name] = list
	}
	next.Del("$skiptoken")
	next.Del("$skip")
	if q.behavior.NextLink.BySkip {
		next.Set("$skip", strconv.FormatInt(q.skip+written, 10))
	} else {
		token := fmt.Sprintf("%c.%x.%x.%x", q.mode, last.ord, q.salt, place)
		next.Set("$skiptoken", base64.RawURLEncoding.EncodeToString([]byte(token)))
	}
	if q.top >= 0 && q.behavior.NextLink.TopIsTotal {
		next.Set("$top", strconv.FormatInt(q.top-written, 10))
	}
	link := q.table.Name + "?" + next.Encode()
	if !q.behavior.NextLink.Relative {
		link = q.base + link
	}
	return link
}

// total counts the rows that match.
func (q *query) total() int64 {
	if len(q.plan.terms) == 0 {
		return q.plan.size()
	}
	st := q.world.states[q.table.id]
	n := int64(0)
	scratch := new(cell)
	for k := range q.plan.size() {
		if q.plan.match(q.world, st.at(q.table.space, q.plan.position(k)), scratch) {
			n++
		}
	}
	return n
}
