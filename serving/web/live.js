// Server-Sent Events, and polling for as long as there are none.

const RETRY_MS = 3000;

// `tell(event, data)` for each event; `connected(is)` whenever that changes.
export function listen(tell, connected) {
  let source;
  const open = () => {
    source = new EventSource("api/events");
    source.addEventListener("open", () => connected(true));
    source.addEventListener("error", () => {
      connected(false);
      // After an answer that is no stream, the browser does not try again by itself.
      if (source.readyState === EventSource.CLOSED) setTimeout(open, RETRY_MS);
    });
    for (const event of ["trending", "marts", "database"]) source.addEventListener(event, (message) => tell(event, message.data));
  };
  open();
  addEventListener("pagehide", () => source.close());
}
