package simulator

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"net/http"
	"strings"

	"github.com/tablexport/tablexport/odata/edm"
)

// baseURL is the address under which the client reached the instance.
func baseURL(r *http.Request) string {
	if r.TLS != nil {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // the client has gone: nothing is left to be told
}

// writeError answers as OData says (OData JSON Format 4.01, section 21.1).
func writeError(w http.ResponseWriter, status int, message string) {
	writeJSON(w, status, map[string]any{"error": map[string]string{"code": fmt.Sprint(status), "message": message}})
}

// writeServiceError answers with the instance's own error object.
func writeServiceError(w http.ResponseWriter, status int, message, code, info string) {
	writeJSON(w, status, map[string]any{
		"message": message, "code": code, "type": "Erp.Server.ServiceException", "info": info,
		"messageFormat": message, "parameters": []string{},
	})
}

func (s *Server) version(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprint(w, s.opts.Version)
}

func (s *Server) discovery(w http.ResponseWriter, r *http.Request) {
	type site struct {
		Type                 string
		Status               string
		StatusDescription    string
		URL                  string `json:"Url"`
		System               bool
		AdditionalProperties map[string]string
	}
	base := baseURL(r)
	writeJSON(w, http.StatusOK, map[string]any{
		"Host": r.Host, "DbName": s.opts.Database,
		"WebSites": []site{
			{"IdentityServer", "Working", "", base + "/id", true, map[string]string{}},
			{"DomainApi", "NotWorking", "not part of the simulator", base + "/api", true, map[string]string{}},
			{"TableApi", "Working", "", base + "/tableapi", true, map[string]string{}},
		},
	})
}

func (s *Server) serviceDocument(w http.ResponseWriter, r *http.Request) {
	type entry struct {
		Name string `json:"name"`
		Kind string `json:"kind"`
		URL  string `json:"url"`
	}
	entries := []entry{}
	for _, name := range s.Tables() {
		entries = append(entries, entry{name, "table", name})
	}
	writeJSON(w, http.StatusOK, map[string]any{"@odata.context": baseURL(r) + tableAPI + "$metadata", "value": entries})
}

// namespace of the entity types in $metadata.
const namespace = "Erp.TableApi"

// metadata answers the CSDL 4.0 of the served tables.
func (s *Server) metadata(w http.ResponseWriter, _ *http.Request) {
	if s.opts.NoMetadata {
		writeError(w, http.StatusNotFound, "$metadata is not available")
		return
	}
	w.Header().Set("Content-Type", "application/xml; charset=utf-8")
	_, _ = w.Write(s.catalog.csdl())
}

func (c *catalog) csdl() []byte {
	var b strings.Builder
	b.WriteString(`<?xml version="1.0" encoding="utf-8"?>` + "\n" +
		`<edmx:Edmx Version="4.0" xmlns:edmx="http://docs.oasis-open.org/odata/ns/edmx"><edmx:DataServices>` + "\n" +
		`<Schema Namespace="` + namespace + `" xmlns="http://docs.oasis-open.org/odata/ns/edm">` + "\n")
	for _, t := range c.list {
		if c.served[t.Name] {
			c.entityType(&b, t)
		}
	}
	b.WriteString("<EntityContainer Name=\"Container\">\n")
	for _, t := range c.list {
		if c.served[t.Name] {
			fmt.Fprintf(&b, "<EntitySet Name=%q EntityType=%q>\n", t.Name, namespace+"."+t.Name)
			for i := range t.columns {
				if col := &t.columns[i]; c.navigable(col) {
					fmt.Fprintf(&b, "<NavigationPropertyBinding Path=%q Target=%q/>\n", col.Navigation, col.References)
				}
			}
			b.WriteString("</EntitySet>\n")
		}
	}
	b.WriteString("</EntityContainer>\n</Schema>\n</edmx:DataServices></edmx:Edmx>\n")
	return []byte(b.String())
}

// navigable reports whether the reference leads to a table that is served, with one key column to be bound to.
func (c *catalog) navigable(col *column) bool {
	t, ok := c.tables[col.References]
	return ok && col.Navigation != "" && c.served[col.References] && len(t.Key) == 1
}

func (c *catalog) entityType(b *strings.Builder, t *table) {
	fmt.Fprintf(b, "<EntityType Name=%q>\n", t.Name)
	if len(t.Key) > 0 {
		b.WriteString("<Key>")
		for _, k := range t.Key {
			fmt.Fprintf(b, "<PropertyRef Name=%q/>", k)
		}
		b.WriteString("</Key>\n")
	}
	for i := range t.columns {
		col := &t.columns[i]
		fmt.Fprintf(b, "<Property Name=%q %s", col.Name, csdlType(col.Type))
		if !col.Nullable {
			b.WriteString(` Nullable="false"`)
		}
		if len(col.Allowed) == 0 {
			b.WriteString("/>\n")
			continue
		}
		b.WriteString(`><Annotation Term="Org.OData.Core.V1.Description" String="One of: `)
		_ = xml.EscapeText(b, []byte(strings.Join(col.Allowed, ", "))) // a strings.Builder does not fail
		b.WriteString("\"/></Property>\n")
	}
	for i := range t.columns {
		if col := &t.columns[i]; c.navigable(col) {
			fmt.Fprintf(b, "<NavigationProperty Name=%q Type=%q><ReferentialConstraint Property=%q ReferencedProperty=%q/></NavigationProperty>\n",
				col.Navigation, namespace+"."+col.References, col.Name, c.tables[col.References].Key[0])
		}
	}
	b.WriteString("</EntityType>\n")
}

// csdlType returns the type attributes of a property. A multi-language text is declared as a string, though its
// value is an object: nothing in CSDL says better.
func csdlType(t edm.Type) string {
	length := ""
	if t.MaxLength > 0 {
		length = fmt.Sprintf(" MaxLength=%q", fmt.Sprint(t.MaxLength))
	}
	switch t.Kind {
	case edm.Guid:
		return `Type="Edm.Guid"`
	case edm.String, edm.MultiLanguage:
		return `Type="Edm.String"` + length
	case edm.Boolean:
		return `Type="Edm.Boolean"`
	case edm.Byte:
		return `Type="Edm.Byte"`
	case edm.Int16:
		return `Type="Edm.Int16"`
	case edm.Int32:
		return `Type="Edm.Int32"`
	case edm.Int64:
		return `Type="Edm.Int64"`
	case edm.Decimal:
		return fmt.Sprintf(`Type="Edm.Decimal" Precision="%d" Scale="%d"`, t.Precision, t.Scale)
	case edm.Double:
		return `Type="Edm.Double"`
	case edm.Date:
		return `Type="Edm.Date"`
	case edm.DateTime:
		return `Type="Edm.DateTimeOffset" Precision="7"`
	case edm.TimeOfDay:
		return `Type="Edm.TimeOfDay" Precision="7"`
	}
	return `Type="Edm.Binary"` + length
}
