-- Names mean one device, and who may speak for a host.

-- A host whose last token was revoked or has expired is offline for that reason.
ALTER TABLE hosts
    DROP CONSTRAINT hosts_reason,
    ADD CONSTRAINT hosts_reason CHECK (reason IN ('probes', 'flapping', 'broken', 'credential'));

-- Until when the signed token is valid that a host showed last; NULL when it showed none. Which hosts
-- of before joined with a signed one is not known, so all without a token of their own count as such;
-- their next heartbeat stores the true moment.
ALTER TABLE hosts ADD COLUMN credential_until timestamptz;
UPDATE hosts
SET credential_until = 'infinity'
WHERE credential = 'own' AND NOT EXISTS (SELECT FROM tokens WHERE host_id = hosts.id);

-- Whether nobody vouches any more for a host that joined with a token of its own.
CREATE FUNCTION credential_ended(of_id text, of_credential text, of_until timestamptz) RETURNS boolean
LANGUAGE sql STABLE
AS $$
    SELECT of_credential = 'own'
        AND coalesce(of_until <= now(), true)
        AND NOT EXISTS (
            SELECT
            FROM tokens
            WHERE host_id = of_id AND (expires_at IS NULL OR expires_at > now())
        )
$$;

-- A host's own name of a device may end with a port, as the serial of one that adb reaches over TCP
-- does: 192.168.1.5:5555. A host's name has no colon, so the first one of an id ends its host's name.
ALTER TABLE devices
    DROP CONSTRAINT devices_local_id_form,
    ADD CONSTRAINT devices_local_id_form CHECK (local_id ~ '^[A-Za-z0-9._-]{1,64}(:[0-9]{1,5})?$');

-- A name is looked up among the ids and among the hosts' own names.
CREATE INDEX devices_of_local_id ON devices (local_id) WHERE local_id IS NOT NULL;

-- The hosts whose tokens are watched.
CREATE INDEX hosts_of_own_credential ON hosts (id) WHERE credential = 'own';

-- Whether a campaign names a device.
CREATE INDEX campaign_entries_of_device ON campaign_entries (device_id) WHERE device_id IS NOT NULL;

-- Entries of campaigns keep the id of their device, so that no other device can take its place. A name
-- that means no device, or several, stays: it is refused when the campaign starts.
UPDATE campaign_entries AS e
SET device_id = named.id
FROM (
    SELECT e.campaign_id, e.position, min(d.id) AS id
    FROM campaign_entries AS e
    JOIN devices AS d
        ON (d.id = e.device_id OR d.local_id = e.device_id)
        AND (e.host_id IS NULL OR d.host_id = e.host_id)
    GROUP BY e.campaign_id, e.position
    HAVING count(*) = 1
) AS named
WHERE e.campaign_id = named.campaign_id AND e.position = named.position AND e.device_id <> named.id;
