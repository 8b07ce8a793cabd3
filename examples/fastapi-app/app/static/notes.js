const form = document.querySelector("form");
const list = document.querySelector("ol");
const footer = document.querySelector("footer");

async function refresh() {
  const notes = await (await fetch("/notes")).json();
  list.replaceChildren(
    ...notes.map((note) => {
      const item = document.createElement("li");
      item.textContent = note.text;
      item.title = new Date(note.created_at).toLocaleString();
      return item;
    }),
  );
}

// Says which process this page talks to. A deployment closes the connection of the old one: the page finds the new one.
function connect() {
  const socket = new WebSocket(new URL("/ws", location.href.replace(/^http/, "ws")));
  socket.addEventListener("message", (event) => {
    const server = JSON.parse(event.data);
    footer.textContent = `version ${server.version}, process ${server.pid}`;
  });
  socket.addEventListener("close", () => {
    footer.textContent = "connecting …";
    setTimeout(connect, 500 + Math.random() * 1000);
  });
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = await fetch("/notes", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(Object.fromEntries(new FormData(form))),
  });
  if (answer.ok) form.reset();
  await refresh();
});

connect();
refresh();
