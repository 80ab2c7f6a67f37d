-- The inbox: a claim waits for a second at most, and knows afterwards what happened meanwhile.

-- Records ids with their sources and returns those that are new, each with: has the consumer parked
-- events, and which transaction is this. Waits for other transactions that are recording the same ids,
-- but not for long, since one of them may be a handler's that hangs. What handlers wait for later is
-- their own business, so the limit ends with this function.
create function claim_events(claimer text, ids uuid[], sources text[])
  returns table (new_id uuid, new_source text, any_parked boolean, in_transaction xid8)
  language plpgsql set search_path from current set lock_timeout = '1s' as $$
declare
  new_ids uuid[];
  new_sources text[];
begin
  -- No conflict target: the parent of a ring has no constraint that could be named. Sorted, so that
  -- two transactions with the same ids never wait for each other in a circle.
  with taken as (
    insert into inbox (consumer, event_id, source)
    select claimer, o.id, o.source from unnest(ids, sources) as o(id, source)
     where not exists (select from inbox_sourceless s where s.consumer = claimer and s.event_id = o.id)
     order by o.id, o.source
    on conflict do nothing
    returning event_id, source)
  select array_agg(t.event_id), array_agg(t.source) into new_ids, new_sources from taken t;
  -- A statement of its own has a snapshot of its own: what the one above waited for may have parked
  -- an event.
  return query
    select n.id, n.source, exists (select from inbox_parked p where p.consumer = claimer),
           pg_current_xact_id()
      from unnest(new_ids, new_sources) as n(id, source);
end $$;

-- For deleting by it (inbox_other has one already).
create index inbox_sourceless_moved_at on inbox_sourceless (moved_at);
