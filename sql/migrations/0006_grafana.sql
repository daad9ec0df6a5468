-- Where vpt's page is, so that Grafana's panels can link to it; the server says it at its start.
CREATE TABLE grafana_page (
    only_one boolean PRIMARY KEY DEFAULT true CONSTRAINT grafana_page_only_one CHECK (only_one),
    url text NOT NULL
);
